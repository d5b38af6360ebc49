WITH me AS (
		UPDATE sessions SET seq=$4, beat=beat+1, journal_synced=greatest(journal_synced, $5)
		WHERE agent=$1 AND epoch=$2 AND seq=$3 AND live
		RETURNING agent, epoch),
	obj AS (
		INSERT INTO objects (key, kind, agent, epoch, seq_first, seq_last, tries, directory, length, directory_length, crc,
			format, extents, live)
		SELECT o.key, 0, me.agent, me.epoch, o.seq, o.seq, o.tries, o.directory, o.length, o.directory_length, o.crc,
			o.format, 0, 0
		FROM me, unnest($6::text[], $7::int8[], $8::int4[], $9::bytea[], $10::int8[], $11::int4[], $12::int8[], $13::int4[])
			AS o(key, seq, tries, directory, length, directory_length, crc, format)
		RETURNING 1),
	rel AS (
		UPDATE partitions p SET leader=-1, leader_session=0, tail_journal=$16
		FROM me, unnest($14::int4[], $15::int4[]) AS r(topic, partition)
		WHERE p.topic=r.topic AND p.partition=r.partition AND p.leader=me.agent AND p.leader_session=me.epoch
		RETURNING 1)
	SELECT (SELECT count(*) FROM me), (SELECT count(*) FROM obj), (SELECT count(*) FROM rel)
