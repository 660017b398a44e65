"""Balancers of the swarm that look at servers: oracles, and probes."""


def oracle(random) -> dict:
    """Return what says that a cluster balances by an oracle."""
    return {
        "policy": f"ORACLE_{random.choice(['SHORTEST', 'STALE', 'IDLE'])}_QUEUE",
        "view_interval": "3ms",
        "distinct_choices": bool(random.random() < 0.5),
    }


def probed(policy: dict, random) -> dict:
    """Let some balance by probes of servers."""
    if random.random() < 0.1 and not {"locality", "subset_config"} & policy.keys():
        policy["load_balancing"] |= {
            "policy": "PREQUAL",
            "r_probe": float(random.choice([0.5, 3, 10])),
            "probe_pool_size": int(random.choice([2, 16])),
            "probe_max_age": str(random.choice(["2ms", "1s"])),
        }
    return policy
