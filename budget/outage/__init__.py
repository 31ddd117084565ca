"""What is done while the store cannot answer.

    outage      the one place that decides: what is refused, what is presumed, and what brings it to the store later
    breaker     when the store is given up on for now, and asked again
    outbox      what must reach the store, on disk until it has
"""
