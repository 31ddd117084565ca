-- The records of accounts in columns, made from their ledgers, and sums by day of what is asked for most. All of it can
-- be made again from the ledger, but for what was imported. Money is nano-dollars, times are microseconds (UTC), days
-- are days since the epoch (UTC).

create table accounts (
    id integer primary key,
    name text not null unique,
    seq integer not null default 0,                     -- of the last entry of the ledger that was read,
    digest blob not null default x'',                   -- and its digest: with another one it is another ledger
    since integer not null default 0,                   -- the ledger's last entry when it was begun to be read
    pruned integer not null default 0,                  -- up to where the ledger's entries are not kept any more
    texts integer not null default 0                    -- how often texts were changed or all was made anew
) strict;

create table names (                                    -- what the numbers in the columns of `calls` stand for
    id integer primary key,
    text text not null unique
) strict;

create table calls (
    account integer not null,
    seq integer not null,                               -- of the entry that ended it; below 0: imported
    id blob not null,
    at integer not null,
    usd integer not null,
    user integer, session integer, agent integer, project integer, model integer, provider integer, run integer,
    input integer not null,                             -- cached too
    output integer not null,
    cache_read integer not null,
    cache_write integer not null,
    saved integer,                                      -- what its cache saved (below 0: cost); null: no rates known
    expected integer, reserved integer,
    latency_ms integer, first_token_ms integer,
    estimated integer not null,
    outcome integer,                                    -- null: ok
    parent integer,
    tags text,                                          -- JSON; null: none
    primary key (account, seq)
) strict, without rowid;

create unique index calls_id on calls (account, id);
create index calls_at on calls (account, at, usd);
create index calls_user on calls (account, user, at);
create index calls_session on calls (account, session, at);

create table turned (                                   -- refusals, and what limits in shadow mode would have refused
    account integer not null,
    seq integer not null,
    part integer not null,                              -- 0: the first limit of a refusal; others from 1
    at integer not null,
    shadow integer not null,
    "limit" text not null,
    scope text not null,                                -- JSON
    model text
) strict;

create index turned_at on turned (account, at);

create table totals (
    account integer not null,
    dim text not null,                                  -- "" is everything; else user, session, agent ...
    day integer not null,
    value integer not null,                             -- a name; 0: the calls that have none
    calls integer not null,
    usd integer not null,
    input integer not null,
    output integer not null,
    cache_read integer not null,
    cache_write integer not null,
    refused integer not null,
    primary key (account, dim, day, value)
) strict, without rowid;
