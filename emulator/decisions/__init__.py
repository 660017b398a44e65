"""Decisions of a live proxy: the policy engine without sockets, its log and its replay."""
