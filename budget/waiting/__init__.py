"""Waiting for room in a pool.

    line        who waits, in which order, and when it is worth asking again
    queues      one pool that somebody waits for, and what is known to be taken of it
    storetime   the store's clock, as well as its answers tell it
"""
