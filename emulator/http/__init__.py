"""HTTP/1.1 on the wire: heads, bodies, one connection to an upstream."""
