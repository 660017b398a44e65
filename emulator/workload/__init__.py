"""What stands around the proxies: servers that sleep their service time, and load."""
