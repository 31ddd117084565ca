-- What the warnings of a store's accounts need to remember. Amounts are nano-dollars or tokens, times are microseconds
-- since the epoch (UTC).

create table rules (
    id integer primary key,
    account text not null,
    text text not null,
    seq integer not null,                               -- of the last entry of the ledger that is in its sums; -1: it has seen none
    unique (account, text)
) strict;

create table sums (                                     -- of a rule, per subject and stretch of time
    rule integer not null,
    subject text not null,
    slot integer not null,                              -- when the stretch began
    part integer not null,                              -- of a distribution: its bucket; else 0
    a integer not null, b integer not null, c integer not null,
    at integer not null,                                -- of the last that was added
    primary key (rule, subject, slot, part)
) strict, without rowid;

create table alerts (
    id text primary key,
    account text not null,
    rule text not null,
    key text not null,                                  -- what it is given once for, besides window and level
    window integer not null,
    level integer not null,                             -- of what goes up in steps: the step; else 0
    subject text not null,
    at integer not null,
    text text not null,
    figures text not null,                              -- JSON
    unique (account, rule, key, window, level)
) strict;

create index alerts_at on alerts (account, at);

create table deliveries (
    alert text not null references alerts (id),
    channel text not null,
    tries integer not null default 0,
    due integer not null default 0,                     -- not before, by this machine's clock
    done integer,                                       -- when it was delivered, by this machine's clock
    error text,                                         -- of the last try
    primary key (alert, channel)
) strict, without rowid;

create index deliveries_due on deliveries (channel, due) where done is null;
