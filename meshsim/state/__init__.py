"""Every structured dtype of the engine, one module a family: the only place a field is defined.

Rules: times are int64 nanoseconds, indices and counts int32, 64-bit counters int64, ratios
float64, hashes uint64.  A row is addressed by its index; an index that may outlive its row
travels with the row's generation.  Code writes ``rows["field"][index]``, never
``rows[index].field``, so that it runs with and without JIT.
"""
