"""The policy engine: every decision a mesh proxy takes, as a pure function.

Rule: a policy decides from what is passed in: state rows first, then configuration, then
`now_ns` and a random stream.  Nothing here knows a clock, a socket, an event queue or the true
state of a server, so the kernel (virtual time) and a live proxy (real time) call the same
compiled functions and decide alike.

- `request`: the per-request machine that composes the others; `step` is its one entry.
- `load_balancing`: which host; `hashing` hashes keys as Envoy does.
- `routing`: which route, and which destination of a split.
- `retry`, `timeout`, `circuit_breakers`: whether to try again, until when, and how many at once.

Strings are matched in plain Python once per configuration; compiled code reads integers.
"""
