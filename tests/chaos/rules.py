"""Rules of the swarm that answers and calls obey."""


def told_to_wait(route: dict, policy: dict, random) -> dict:
    """Let some refusals say when to come again, and retries heed it."""
    if random.random() < 0.2:
        retry = {"num_retries": 2, "retry_on": ["5xx"], **route.get("retry", {})}
        retry["retry_on"] = [*retry["retry_on"], "retriable-status-codes"]
        retry["retriable_status_codes"] = [429]
        names = ["x-ratelimit-reset", "retry-after"]
        retry["rate_limited_retry_back_off"] = {
            "reset_headers": [{"name": name} for name in names if random.random() < 0.7]
            or [{"name": "retry-after", "format": "UNIX_TIMESTAMP"}]
        }
        route["retry"] = retry
        if "rate_limit" in policy:
            policy["rate_limit"]["enable_x_ratelimit_headers"] = "DRAFT_VERSION_03"
    return route


def falls_back(step: dict, callees: list[str], random) -> dict:
    """Give some calls a fallback."""
    if "call" not in step or step.get("optional") or random.random() > 0.3:
        return step
    kind = random.random()
    if kind < 0.4:
        return {**step, "fallback": []}
    other = {"call": str(random.choice(callees))}
    if kind < 0.7:
        return {**step, "fallback": [{"compute": "500us"}, {**other, "fallback": []}]}
    return {**step, "fallback": [{"parallel": [[other], [{"sleep": "1ms"}]]}]}


def bulkhead(random) -> dict:
    """Return a narrow bulkhead."""
    found = {
        "max_concurrent_calls": int(random.choice([1, 2, 8])),
        "max_wait_duration": str(random.choice(["0s", "1ms", "20ms"])),
    }
    if random.random() < 0.3:
        found["max_waiting_calls"] = 1
    return found


def limited_by_connection(policy: dict, random) -> None:
    """Let some inbound limits be of each connection, with a descriptor or without."""
    if random.random() > 0.25:
        return
    bucket = {"max_tokens": int(random.choice([1, 3])), "fill_interval": "10ms"}
    limit = policy.setdefault("rate_limit", {"token_bucket": bucket})
    limit["local_rate_limit_per_downstream_connection"] = True
    if random.random() < 0.5:
        limit["descriptors"] = [{"entries": {":authority": "*"}, "token_bucket": bucket}]
