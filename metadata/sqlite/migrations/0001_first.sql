-- Rows per object, never per batch; no row is written per partition and flush.
-- Times are milliseconds of the agent's clock. -1 stands where no agent leads, 16 zero bytes where there is no journal.

CREATE TABLE cluster (
    one integer PRIMARY KEY CHECK (one = 1),
    id blob NOT NULL,
    incarnation integer NOT NULL CHECK (incarnation BETWEEN 0 AND 32767),
    shards integer NOT NULL,
    format integer NOT NULL,
    repairing integer NOT NULL,
    store_system text NOT NULL,
    store_timeline integer NOT NULL
) STRICT;

CREATE TABLE counters (
    name text PRIMARY KEY,
    value integer NOT NULL
) STRICT;
INSERT INTO counters (name, value) VALUES ('catalog', 1), ('topic', 0);

-- An epoch that is not live belongs to nobody; seq, nonce and journal are then still those of the epoch before it.
CREATE TABLE sessions (
    agent integer PRIMARY KEY,
    epoch integer NOT NULL,
    live integer NOT NULL,
    seq integer NOT NULL,
    beat integer NOT NULL,
    nonce integer NOT NULL,
    incarnation integer NOT NULL,
    journal blob NOT NULL,
    journal_synced integer NOT NULL,
    address text NOT NULL,
    rack text NOT NULL,
    version text NOT NULL
) STRICT;

-- kind 0: a shard of group and transaction coordinators. Writes below floor are late copies of what a delete has undone.
CREATE TABLE leases (
    kind integer NOT NULL,
    shard integer NOT NULL,
    agent integer NOT NULL,
    session integer NOT NULL,
    epoch integer NOT NULL,
    floor integer NOT NULL,
    PRIMARY KEY (kind, shard)
) STRICT;

CREATE TABLE topics (
    num integer PRIMARY KEY,
    id blob NOT NULL UNIQUE,
    name text NOT NULL,
    partitions integer NOT NULL,
    config text NOT NULL,
    deleting integer NOT NULL
) STRICT;
CREATE UNIQUE INDEX topics_name ON topics (name) WHERE NOT deleting;

-- epochs: 12 bytes each (leader epoch, start); unsealed: 8 bytes each (agent, session epoch); big-endian, oldest first.
CREATE TABLE partitions (
    topic integer NOT NULL REFERENCES topics (num),
    partition integer NOT NULL,
    leader integer NOT NULL,
    leader_session integer NOT NULL,
    leader_epoch integer NOT NULL,
    epoch_start integer NOT NULL,
    epochs blob NOT NULL,
    tail_journal blob NOT NULL,
    tail_cap integer NOT NULL,
    unsealed blob NOT NULL,
    sealed_end integer NOT NULL,
    log_start integer NOT NULL,
    cleaned_end integer NOT NULL,
    target integer NOT NULL,
    PRIMARY KEY (topic, partition)
) STRICT;

-- kind 0 wal, 1 pack, 2 sealed. extents counts the segments that a sealed object was entered with, live those that are
-- left. directory is the object's own, byte for byte, and only while it is not sealed.
CREATE TABLE objects (
    id integer PRIMARY KEY AUTOINCREMENT,
    key text NOT NULL UNIQUE,
    kind integer NOT NULL,
    agent integer NOT NULL,
    epoch integer NOT NULL,
    seq_first integer NOT NULL,
    seq_last integer NOT NULL,
    tries integer NOT NULL,
    directory blob,
    length integer NOT NULL,
    directory_length integer NOT NULL,
    crc integer NOT NULL,
    format integer NOT NULL,
    extents integer NOT NULL,
    live integer NOT NULL CHECK (live >= 0)
) STRICT;
CREATE UNIQUE INDEX objects_run ON objects (agent, epoch, seq_first) WHERE kind <> 2;
CREATE INDEX objects_mixed ON objects (id) WHERE kind = 2 AND live > 0 AND live < extents;

CREATE TABLE segments (
    topic integer NOT NULL,
    partition integer NOT NULL,
    base integer NOT NULL,
    next integer NOT NULL CHECK (next > base),
    object integer NOT NULL REFERENCES objects (id),
    pos integer NOT NULL,
    len integer NOT NULL,
    records integer NOT NULL,
    max_ts integer NOT NULL,
    running_max integer NOT NULL,
    generation integer NOT NULL,
    PRIMARY KEY (topic, partition, base)
) STRICT;
CREATE INDEX segments_time ON segments (topic, partition, running_max, base);
CREATE INDEX segments_object ON segments (object);

CREATE TABLE uploads (
    key text PRIMARY KEY,
    agent integer NOT NULL,
    epoch integer NOT NULL
) STRICT;
CREATE INDEX uploads_agent ON uploads (agent);

CREATE TABLE tombstones (
    key text PRIMARY KEY,
    not_before integer NOT NULL,
    reason text NOT NULL
) STRICT;
CREATE INDEX tombstones_due ON tombstones (not_before, key);

CREATE TABLE lost_ranges (
    id integer PRIMARY KEY AUTOINCREMENT,
    topic integer NOT NULL,
    partition integer NOT NULL,
    lost_from integer NOT NULL,
    lost_to integer NOT NULL,
    leader_epoch integer NOT NULL,
    journal blob NOT NULL,
    why text NOT NULL,
    lost_at integer NOT NULL
) STRICT;

CREATE TABLE groups (
    grp text PRIMARY KEY,
    shard integer NOT NULL,
    state blob NOT NULL,
    lease_epoch integer NOT NULL,
    counter integer NOT NULL
) STRICT;
CREATE INDEX groups_shard ON groups (shard);

CREATE TABLE group_offsets (
    grp text NOT NULL,
    topic integer NOT NULL,
    partition integer NOT NULL,
    shard integer NOT NULL,
    committed integer NOT NULL,
    leader_epoch integer NOT NULL,
    metadata text NOT NULL,
    commit_time integer NOT NULL,
    expire_time integer NOT NULL,
    lease_epoch integer NOT NULL,
    counter integer NOT NULL,
    PRIMARY KEY (grp, topic, partition)
) STRICT;
CREATE INDEX group_offsets_shard ON group_offsets (shard);
CREATE INDEX group_offsets_topic ON group_offsets (topic);

-- Offsets of open transactions, by group and producer.
CREATE TABLE txn_offsets (
    grp text NOT NULL,
    producer_id integer NOT NULL,
    producer_epoch integer NOT NULL,
    topic integer NOT NULL,
    partition integer NOT NULL,
    shard integer NOT NULL,
    committed integer NOT NULL,
    leader_epoch integer NOT NULL,
    metadata text NOT NULL,
    commit_time integer NOT NULL,
    lease_epoch integer NOT NULL,
    counter integer NOT NULL,
    PRIMARY KEY (grp, producer_id, topic, partition)
) STRICT;
CREATE INDEX txn_offsets_shard ON txn_offsets (shard);
CREATE INDEX txn_offsets_topic ON txn_offsets (topic);

CREATE TABLE transactions (
    id text PRIMARY KEY,
    shard integer NOT NULL,
    producer_id integer NOT NULL,
    producer_epoch integer NOT NULL,
    prev_id integer NOT NULL,
    prev_epoch integer NOT NULL,
    state integer NOT NULL,
    txn_counter integer NOT NULL,
    partitions blob NOT NULL,
    timeout_ms integer NOT NULL,
    started integer NOT NULL,
    updated integer NOT NULL,
    lease_epoch integer NOT NULL,
    version integer NOT NULL
) STRICT;
CREATE INDEX transactions_shard ON transactions (shard);

-- next is the counter in the low 48 bits of a producer id; the incarnation stands above it.
CREATE TABLE producer_ids (
    one integer PRIMARY KEY CHECK (one = 1),
    next integer NOT NULL
) STRICT;
INSERT INTO producer_ids (one, next) VALUES (1, 0);

-- kind 0: broker ('-1' is the default of all), 1: group. Topic configs stand in topics.
CREATE TABLE configs (
    kind integer NOT NULL,
    name text NOT NULL,
    config text NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT;

CREATE TABLE acls (
    id blob PRIMARY KEY,
    resource_type integer NOT NULL,
    pattern_type integer NOT NULL,
    resource text NOT NULL,
    principal text NOT NULL,
    host text NOT NULL,
    operation integer NOT NULL,
    permission integer NOT NULL,
    UNIQUE (resource_type, pattern_type, resource, principal, host, operation, permission)
) STRICT;

CREATE TABLE scram (
    name text NOT NULL,
    mechanism integer NOT NULL,
    salt blob NOT NULL,
    stored_key blob NOT NULL,
    server_key blob NOT NULL,
    iterations integer NOT NULL,
    PRIMARY KEY (name, mechanism)
) STRICT;

-- entity: the sorted (type, name) pairs, encoded.
CREATE TABLE quotas (
    entity text NOT NULL,
    name text NOT NULL,
    value real NOT NULL,
    PRIMARY KEY (entity, name)
) STRICT;
