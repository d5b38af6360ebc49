-- What is known of a partition's producers at an offset (upto) where no segment is left to tell it. Written when the log
-- start passes the sealed end; a segment that ends behind the log start counts instead.
CREATE TABLE producer_states (
    topic integer NOT NULL,
    partition integer NOT NULL,
    upto integer NOT NULL,
    state blob NOT NULL,
    PRIMARY KEY (topic, partition)
) STRICT;
