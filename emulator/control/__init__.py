"""The control plane on MQTT: broker, bus, server, and the agent beside each proxy."""
