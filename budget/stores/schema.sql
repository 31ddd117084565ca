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

alter table buckets add column                          -- the length of the rolling window that it is a part of, else 0
    span integer not null default 0 check (span between 0 and 9007199254740991);

create table policy_3 (                                 -- limits, freezes, adjustments, and a fence
    account integer not null,
    kind text not null check (kind in ('limit', 'freeze', 'adjust', 'fence')),
    identity text not null,
    body text not null,
    primary key (account, kind, identity)
) strict, without rowid;

insert into policy_3 select account, kind, identity, body from policy;
drop table policy;
alter table policy_3 rename to policy;

alter table entries add column                          -- the digest of the first content of an entry that was erased
    sealed blob check (length(sealed) = 32);

create index checkpoints on entries (account, seq) where kind in ('pruned', 'erased');

alter table entries add column origin integer;          -- of a records store: the entry's number on the server

create index origins on entries (account, origin) where origin is not null;

create table drained (                                  -- of a records store: what was read from a server's ledger
    account integer primary key,
    mark text not null,                                 -- of this store, which the server has as well
    epoch text not null,                                -- of the server's account
    since integer not null,                             -- the last entry here before that epoch's
    seq integer not null,                               -- the last entry that was read, by its number there,
    digest blob not null,                               -- and its digest there
    refusal text not null                               -- the id of the last refusal that was read
) strict;
