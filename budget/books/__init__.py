"""An account's ledger as people keep it, wherever its entries are.

    books       the entries of store and records store as one ledger; verify and rebuild
    counters    which of them are wrong, or gone, and what they should be
    drainer     a server's stream into the records store, in the background
    pruning     old entries summed into a checkpoint          erasing    a subject replaced by a pseudonym
    recovery    what a server has lost, put back              moving     an account from one store to another
    backup      a copy of an SQLite file that others write to
"""
