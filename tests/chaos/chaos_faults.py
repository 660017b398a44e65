"""Faults of the world that random meshes meet: one more thing, now and then."""

_KINDS = (
    *("flush", "drain", "flap", "squeeze", "node", "ramp"),
    *("wire", "partition", "zone", "heal", "gray", "roll"),
)


class Shaker:
    """Shakes one mesh, by draws of its own."""

    def __init__(self, random) -> None:
        self.random = random
        self.rolled: set[str] = set()

    def shake(self, control, topology) -> str:
        """Do something, or nothing; return what."""
        if self.random.random() >= 0.4:
            return ""
        service = str(self.random.choice(list(topology.services)))
        what = str(self.random.choice(_KINDS))
        if what in ("wire", "partition", "zone", "heal", "node"):
            if not topology.nodes:
                return ""
            self._shake_places(control, what)
        else:
            self._shake_replicas(control, topology, what, service)
        return f"{what} {service} and "

    def _shake_replicas(self, control, topology, what: str, service: str) -> None:
        random = self.random
        steps = topology.services[service].workloads["v1"].steps
        if what == "flush" and any(step.cache for step in steps):
            control.flush(service)
        elif what == "drain":
            control.drain(service, replica=0, grace_s=0.03, pre_stop_s=0.01)
        elif what == "flap":
            control.flap(service, times=2, down_s=0.004, up_s=0.007)
        elif what == "squeeze":
            control.squeeze(service, float(random.choice([0.1, 0.5, 1.0])))
        elif what == "ramp":
            control.set_rate("class0", float(random.choice([0.0, 2.0])), ramp_s=0.03)
        elif what == "gray":
            callers = list(topology.services)[:1]
            control.gray(service, 0.5, factor=0.3, error_rate=0.3, callers=callers)
        elif what == "roll" and service not in self.rolled:
            self.rolled.add(service)  # one at a time
            control.roll_out(service, readiness_s=0.005, grace_s=0.02, pre_stop_s=0.002)

    def _shake_places(self, control, what: str) -> None:
        random = self.random
        if what == "node":
            control.squeeze(node="n0", share=float(random.choice([0.1, 0.5, 1.0])))
        elif what == "wire":
            latency = str(random.choice(["0s", "2ms"]))
            loss = float(random.choice([0.0, 0.2]))
            control.impair(("default", "z1"), latency=latency, loss=loss, one_way=bool(loss))
        elif what == "partition":
            control.partition("z1")
        elif what == "zone":
            control.lose_zone("default")
        else:
            control.restore(zone="default")
            control.heal()
