"""Money bought ahead from the pools, and given out here.

    slices      the slices of one engine: for speed, and the allowance for when the store cannot answer
    slice       one of them, and the pools that calls draw on together
"""
