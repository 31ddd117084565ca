#!lua flags=allow-oom
-- Replace a reservation by the true cost.
-- KEYS  marker, leases, ledger, refusals, closed windows, names, reservation, pool ...
-- ARGV  1 id  2 now, swept, made  3 actual  4 detail  5 pool ids
-- reply unknown; due: id ...; pools | repeated | conflict: record; ended: buckets, record or only what was charged

return { 'unknown', now, told }
