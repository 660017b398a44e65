"""The control plane without its sockets: what is pushed to whom, when, and what they answer.

Every module is sans-IO: `now_ns` comes in, deadlines and messages go out.  The simulator and
the emulator drive the same rules, one on virtual time, the other on the machine's.
"""
