-- Rows per object, never per batch; no row is written per partition and flush.
-- Times are milliseconds of the database's clock. -1 stands where no agent leads, 16 zero bytes where there is no journal.

CREATE TABLE cluster (
    one            smallint PRIMARY KEY CHECK (one = 1),
    id             bytea    NOT NULL,
    incarnation    integer  NOT NULL CHECK (incarnation BETWEEN 0 AND 32767),
    shards         integer  NOT NULL,
    format         integer  NOT NULL,
    repairing      boolean  NOT NULL,
    store_system   text     NOT NULL,
    store_timeline bigint   NOT NULL
);

CREATE TABLE counters (
    name  text   PRIMARY KEY,
    value bigint NOT NULL
);
INSERT INTO counters (name, value) VALUES ('catalog', 1), ('topic', 0);

-- An epoch that is not live belongs to nobody; seq, nonce and journal are then still those of the epoch before it.
CREATE TABLE sessions (
    agent          integer PRIMARY KEY,
    epoch          integer NOT NULL,
    live           boolean NOT NULL,
    seq            bigint  NOT NULL,
    beat           bigint  NOT NULL,
    nonce          bigint  NOT NULL,
    incarnation    integer NOT NULL,
    journal        bytea   NOT NULL,
    journal_synced bigint  NOT NULL,
    address        text    NOT NULL,
    rack           text    NOT NULL,
    version        text    NOT NULL
) WITH (fillfactor = 50);

-- kind 0: a shard of group and transaction coordinators. Writes below floor are late copies of what a delete has undone.
CREATE TABLE leases (
    kind    smallint NOT NULL,
    shard   integer  NOT NULL,
    agent   integer  NOT NULL,
    session integer  NOT NULL,
    epoch   integer  NOT NULL,
    floor   bigint   NOT NULL,
    PRIMARY KEY (kind, shard)
);

CREATE TABLE topics (
    num        integer PRIMARY KEY,
    id         bytea   NOT NULL UNIQUE,
    name       text    NOT NULL,
    partitions integer NOT NULL,
    config     text    NOT NULL,
    deleting   boolean NOT NULL
);
CREATE UNIQUE INDEX topics_name ON topics (name) WHERE NOT deleting;

-- epochs: 12 bytes each (leader epoch, start); unsealed: 8 bytes each (agent, session epoch); big-endian, oldest first.
CREATE TABLE partitions (
    topic          integer NOT NULL REFERENCES topics (num),
    partition      integer NOT NULL,
    leader         integer NOT NULL,
    leader_session integer NOT NULL,
    leader_epoch   integer NOT NULL,
    epoch_start    bigint  NOT NULL,
    epochs         bytea   NOT NULL,
    tail_journal   bytea   NOT NULL,
    tail_cap       bigint  NOT NULL,
    unsealed       bytea   NOT NULL,
    sealed_end     bigint  NOT NULL,
    log_start      bigint  NOT NULL,
    cleaned_end    bigint  NOT NULL,
    target         integer NOT NULL,
    PRIMARY KEY (topic, partition)
);

-- kind 0 wal, 1 pack, 2 sealed. extents counts the segments that a sealed object was entered with, live those that are
-- left. directory is the object's own, byte for byte, and only while it is not sealed.
CREATE TABLE objects (
    id               bigint   GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key              text     NOT NULL UNIQUE,
    kind             smallint NOT NULL,
    agent            integer  NOT NULL,
    epoch            integer  NOT NULL,
    seq_first        bigint   NOT NULL,
    seq_last         bigint   NOT NULL,
    tries            integer  NOT NULL,
    directory        bytea,
    length           bigint   NOT NULL,
    directory_length integer  NOT NULL,
    crc              bigint   NOT NULL,
    format           integer  NOT NULL,
    extents          integer  NOT NULL,
    live             integer  NOT NULL CHECK (live >= 0)
);
ALTER TABLE objects ALTER COLUMN directory SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX objects_run ON objects (agent, epoch, seq_first) WHERE kind <> 2;
CREATE INDEX objects_mixed ON objects (id) WHERE kind = 2 AND live > 0 AND live < extents;

CREATE TABLE segments (
    topic       integer NOT NULL,
    partition   integer NOT NULL,
    base        bigint  NOT NULL,
    next        bigint  NOT NULL CHECK (next > base),
    object      bigint  NOT NULL REFERENCES objects (id),
    pos         bigint  NOT NULL,
    len         bigint  NOT NULL,
    records     bigint  NOT NULL,
    max_ts      bigint  NOT NULL,
    running_max bigint  NOT NULL,
    generation  integer NOT NULL,
    PRIMARY KEY (topic, partition, base)
);
CREATE INDEX segments_time ON segments (topic, partition, running_max, base);
CREATE INDEX segments_object ON segments (object);

CREATE TABLE uploads (
    key   text    PRIMARY KEY,
    agent integer NOT NULL,
    epoch integer NOT NULL
);
CREATE INDEX uploads_agent ON uploads (agent);

CREATE TABLE tombstones (
    key        text   PRIMARY KEY,
    not_before bigint NOT NULL,
    reason     text   NOT NULL
);
CREATE INDEX tombstones_due ON tombstones (not_before, key);

CREATE TABLE lost_ranges (
    id           bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic        integer NOT NULL,
    partition    integer NOT NULL,
    lost_from    bigint  NOT NULL,
    lost_to      bigint  NOT NULL,
    leader_epoch integer NOT NULL,
    journal      bytea   NOT NULL,
    why          text    NOT NULL,
    lost_at      bigint  NOT NULL
);

CREATE TABLE groups (
    grp         text    PRIMARY KEY,
    shard       integer NOT NULL,
    state       bytea   NOT NULL,
    lease_epoch integer NOT NULL,
    counter     bigint  NOT NULL
);
CREATE INDEX groups_shard ON groups (shard);

CREATE TABLE group_offsets (
    grp          text    NOT NULL,
    topic        integer NOT NULL,
    partition    integer NOT NULL,
    shard        integer NOT NULL,
    committed    bigint  NOT NULL,
    leader_epoch integer NOT NULL,
    metadata     text    NOT NULL,
    commit_time  bigint  NOT NULL,
    expire_time  bigint  NOT NULL,
    lease_epoch  integer NOT NULL,
    counter      bigint  NOT NULL,
    PRIMARY KEY (grp, topic, partition)
) WITH (fillfactor = 70);
CREATE INDEX group_offsets_shard ON group_offsets (shard);
CREATE INDEX group_offsets_topic ON group_offsets (topic);

-- Offsets of open transactions, by group and producer.
CREATE TABLE txn_offsets (
    grp            text     NOT NULL,
    producer_id    bigint   NOT NULL,
    producer_epoch smallint NOT NULL,
    topic          integer  NOT NULL,
    partition      integer  NOT NULL,
    shard          integer  NOT NULL,
    committed      bigint   NOT NULL,
    leader_epoch   integer  NOT NULL,
    metadata       text     NOT NULL,
    commit_time    bigint   NOT NULL,
    lease_epoch    integer  NOT NULL,
    counter        bigint   NOT NULL,
    PRIMARY KEY (grp, producer_id, topic, partition)
);
CREATE INDEX txn_offsets_shard ON txn_offsets (shard);
CREATE INDEX txn_offsets_topic ON txn_offsets (topic);

CREATE TABLE transactions (
    id             text     PRIMARY KEY,
    shard          integer  NOT NULL,
    producer_id    bigint   NOT NULL,
    producer_epoch smallint NOT NULL,
    prev_id        bigint   NOT NULL,
    prev_epoch     smallint NOT NULL,
    state          smallint NOT NULL,
    txn_counter    bigint   NOT NULL,
    partitions     bytea    NOT NULL,
    timeout_ms     integer  NOT NULL,
    started        bigint   NOT NULL,
    updated        bigint   NOT NULL,
    lease_epoch    integer  NOT NULL,
    version        bigint   NOT NULL
);
CREATE INDEX transactions_shard ON transactions (shard);

-- next is the counter in the low 48 bits of a producer id; the incarnation stands above it.
CREATE TABLE producer_ids (
    one  smallint PRIMARY KEY CHECK (one = 1),
    next bigint   NOT NULL
);
INSERT INTO producer_ids (one, next) VALUES (1, 0);

-- kind 0: broker ('-1' is the default of all), 1: group. Topic configs stand in topics.
CREATE TABLE configs (
    kind   smallint NOT NULL,
    name   text     NOT NULL,
    config text     NOT NULL,
    PRIMARY KEY (kind, name)
);

CREATE TABLE acls (
    id            bytea    PRIMARY KEY,
    resource_type smallint NOT NULL,
    pattern_type  smallint NOT NULL,
    resource      text     NOT NULL,
    principal     text     NOT NULL,
    host          text     NOT NULL,
    operation     smallint NOT NULL,
    permission    smallint NOT NULL,
    UNIQUE (resource_type, pattern_type, resource, principal, host, operation, permission)
);

CREATE TABLE scram (
    name       text     NOT NULL,
    mechanism  smallint NOT NULL,
    salt       bytea    NOT NULL,
    stored_key bytea    NOT NULL,
    server_key bytea    NOT NULL,
    iterations integer  NOT NULL,
    PRIMARY KEY (name, mechanism)
);

-- entity: the sorted (type, name) pairs, encoded.
CREATE TABLE quotas (
    entity text             NOT NULL,
    name   text             NOT NULL,
    value  double precision NOT NULL,
    PRIMARY KEY (entity, name)
);
