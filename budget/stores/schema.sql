-- The SQLite store's tables. Amounts are nano-dollars, tokens or requests; times are microseconds since the epoch.
-- STRICT and the CHECKs are the last line: SQLite would turn an integer overflow into a float, and NaN into NULL.

create table accounts (
    id integer primary key,
    name text not null unique,
    version integer not null check (version >= 0),      -- of the policy; a reserve with another one is told so
    seq integer not null check (seq >= 0),              -- of the last entry
    head blob not null check (length(head) = 32),       -- its digest
    clock integer not null                              -- the latest instant seen; time never goes back
) strict;

create table policy (                                   -- limits and freezes
    account integer not null,
    kind text not null check (kind in ('limit', 'freeze')),
    identity text not null,
    body text not null,
    primary key (account, kind, identity)
) strict, without rowid;

create table pools (                                    -- what a pool's id stands for
    account integer not null,
    pool text not null,
    name text not null,
    primary key (account, pool)
) strict, without rowid;

create table buckets (
    account integer not null,
    pool text not null,
    start integer not null,
    "end" integer not null,
    since integer not null,
    spent integer not null check (spent between 0 and 9007199254740991),
    reserved integer not null check (reserved between 0 and 9007199254740991),
    primary key (account, pool, start)
) strict, without rowid;

create table reservations (
    account integer not null,
    id text not null,
    state text not null check (state in ('open', 'reconciled', 'refunded', 'expired')),
    due integer not null,                               -- open: when the lease ends; ended: when it may be forgotten
    made integer not null,
    body text not null,                                 -- the rest of the reservation, JSON
    primary key (account, id)
) strict, without rowid;

create index reservations_due on reservations (account, state = 'open', due);

create table entries (
    account integer not null,
    seq integer not null,
    at integer not null,
    kind text not null,
    reservation text,
    usd integer not null,
    tokens integer not null,
    input_tokens integer not null,
    output_tokens integer not null,
    requests integer not null,
    scope text not null,
    detail text not null,
    postings text not null,
    digest blob not null,
    primary key (account, seq)
) strict, without rowid;

create index entries_at on entries (account, at);

-- since version 2

create table learned (                                  -- sketches of what answers were like
    account integer not null,
    name text not null,
    counts text not null,                               -- bucket -> count, JSON
    primary key (account, name)
) strict, without rowid;

-- since version 3

alter table buckets add column                          -- what the window before left unspent, added to the limit
    carry integer not null default 0 check (carry between 0 and 9007199254740991);
