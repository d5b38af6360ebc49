package sqlmeta

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"varve.dev/metadata"
)

const (
	catalogCounter = "catalog"
	topicCounter   = "topic"
)

// count raises a counter and answers its new value. It serializes those who change the catalog.
func count(tx Tx, name string) (value int64, err error) {
	found, err := one(tx, Stmt{SQL: `UPDATE counters SET value=value+1 WHERE name=$1 RETURNING value`, Args: []any{name}}, &value)
	if err == nil && !found {
		err = fmt.Errorf("counter %s: %w", name, metadata.ErrNotFound)
	}
	return value, err
}

// change runs a change of the catalog and raises its version.
func (s *Store) change(ctx context.Context, what string, fn func(Tx) error) error {
	err := s.db.Write(ctx, func(tx Tx) error {
		if _, err := count(tx, catalogCounter); err != nil {
			return err
		}
		return fn(tx)
	})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// errSame ends a change that was made before: nothing changes, not even the version.
var errSame = errors.New("already so")

// Catalog is metadata.Topics.
func (s *Store) Catalog(ctx context.Context, known int64) (metadata.Catalog, error) {
	var c metadata.Catalog
	err := s.db.Read(ctx, func(tx Tx) error {
		c = metadata.Catalog{}
		_, err := one(tx, Stmt{SQL: `SELECT value FROM counters WHERE name=$1`, Args: []any{catalogCounter}}, &c.Version)
		if err != nil || c.Version == known {
			return err
		}
		if c.Topics, err = topics(tx); err != nil {
			return err
		}
		return configs(tx, &c)
	})
	if err != nil {
		return metadata.Catalog{}, fmt.Errorf("read the catalog: %w", err)
	}
	return c, nil
}

func topics(tx Tx) ([]metadata.Topic, error) {
	return list(tx, Stmt{SQL: `SELECT num, id, name, partitions, config, deleting FROM topics ORDER BY num`}, scanTopic)
}

func scanTopic(r Row) (t metadata.Topic, err error) {
	var id []byte
	var config string
	if err := r.Scan(&t.Num, &id, &t.Name, &t.Partitions, &config, &t.Deleting); err != nil {
		return t, err
	}
	if t.ID, err = uuid(id); err != nil {
		return t, err
	}
	t.Config, err = decodeConfig(config)
	return t, err
}

func configs(tx Tx, c *metadata.Catalog) error {
	c.Brokers, c.Groups = map[int32]map[string]string{}, map[string]map[string]string{}
	return tx.Query(Stmt{SQL: `SELECT kind, name, config FROM configs`}, func(r Row) error {
		var kind int
		var name, text string
		if err := r.Scan(&kind, &name, &text); err != nil {
			return err
		}
		config, err := decodeConfig(text)
		if err != nil {
			return err
		}
		if kind == groupConfig {
			c.Groups[name] = config
			return nil
		}
		agent, err := strconv.ParseInt(name, 10, 32)
		c.Brokers[int32(agent)] = config
		return err
	})
}

// encodeConfig never fails: strings always marshal.
func encodeConfig(config map[string]string) string {
	if len(config) == 0 {
		return "{}"
	}
	text, _ := json.Marshal(config)
	return string(text)
}

func decodeConfig(text string) (config map[string]string, err error) {
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		return nil, fmt.Errorf("stored config %q: %w", text, err)
	}
	return config, nil
}

// CreateTopic is metadata.Topics. Repeated with the same id it answers the topic that it made.
func (s *Store) CreateTopic(ctx context.Context, t metadata.Topic, target int32) (metadata.Topic, error) {
	made := t
	err := s.change(ctx, "create topic "+t.Name, func(tx Tx) error {
		same, err := list(tx, Stmt{
			SQL:  `SELECT num, id, name, partitions, config, deleting FROM topics WHERE name=$1 AND NOT deleting`,
			Args: []any{t.Name},
		}, scanTopic)
		if err != nil {
			return err
		}
		if len(same) > 0 {
			if made = same[0]; made.ID == t.ID {
				return errSame
			}
			return metadata.ErrExists
		}
		num, err := count(tx, topicCounter)
		if err != nil {
			return err
		}
		made = t
		made.Num, made.Deleting = int32(num), false
		if _, err := tx.Exec(Stmt{
			SQL:  `INSERT INTO topics (num, id, name, partitions, config, deleting) VALUES ($1, $2, $3, $4, $5, false)`,
			Args: []any{made.Num, t.ID[:], t.Name, t.Partitions, encodeConfig(t.Config)},
		}); err != nil {
			return unique(err, fmt.Errorf("its id %v is taken: %w", t.ID, metadata.ErrExists))
		}
		return addPartitions(tx, made.Num, 0, t.Partitions, target)
	})
	if errors.Is(err, errSame) {
		return made, nil
	}
	if err != nil {
		return metadata.Topic{}, err
	}
	return made, nil
}

func addPartitions(tx Tx, num, from, to, target int32) error {
	if to <= from {
		return nil
	}
	_, err := tx.Exec(Stmt{
		SQL: `INSERT INTO partitions (topic, partition, leader, leader_session, leader_epoch, epoch_start, epochs,
				tail_journal, tail_cap, unsealed, sealed_end, log_start, cleaned_end, target)
			WITH RECURSIVE n(i) AS (
				SELECT CAST($2 AS integer) UNION ALL SELECT i+1 FROM n WHERE i+1 < CAST($3 AS integer))
			SELECT $1, i, -1, 0, $7, 0, $5, $6, 0, $5, 0, 0, 0, $4 FROM n`,
		Args: []any{num, from, to, target, []byte{}, noJournal(), metadata.NeverLed},
	})
	return err
}

// AddPartitions is metadata.Topics.
func (s *Store) AddPartitions(ctx context.Context, num int32, from, to int32, target int32) error {
	return s.change(ctx, fmt.Sprintf("add partitions %d to %d to topic %d", from, to, num), func(tx Tx) error {
		if to <= from {
			return fmt.Errorf("want more than %d partitions: %w", from, metadata.ErrConflict)
		}
		n, err := tx.Exec(Stmt{
			SQL:  `UPDATE topics SET partitions=$3 WHERE num=$1 AND partitions=$2 AND NOT deleting`,
			Args: []any{num, from, to},
		})
		if err != nil {
			return err
		}
		if n == 0 {
			if _, err := topicState(tx, num); err != nil {
				return err
			}
			return metadata.ErrConflict
		}
		return addPartitions(tx, num, from, to, target)
	})
}

// topicState tells whether a topic is being deleted.
func topicState(tx Tx, num int32) (deleting bool, err error) {
	found, err := one(tx, Stmt{SQL: `SELECT deleting FROM topics WHERE num=$1`, Args: []any{num}}, &deleting)
	if err == nil && !found {
		err = metadata.ErrNotFound
	}
	return deleting, err
}

// DeleteTopic is metadata.Topics.
func (s *Store) DeleteTopic(ctx context.Context, num int32, grace metadata.Grace) error {
	err := s.change(ctx, fmt.Sprintf("delete topic %d", num), func(tx Tx) error {
		if deleting, err := topicState(tx, num); err != nil {
			return err
		} else if deleting {
			return errSame
		}
		refs := map[int64]int32{}
		for _, q := range []string{
			`UPDATE topics SET deleting=true WHERE num=$1`,
			`DELETE FROM partitions WHERE topic=$1`, // whoever adds segments holds its row
			`DELETE FROM producer_states WHERE topic=$1`,
			`DELETE FROM group_offsets WHERE topic=$1`,
			`DELETE FROM txn_offsets WHERE topic=$1`,
		} {
			if _, err := tx.Exec(Stmt{SQL: q, Args: []any{num}}); err != nil {
				return err
			}
		}
		if err := tx.Query(Stmt{
			SQL:  `SELECT object, count(*) FROM segments WHERE topic=$1 GROUP BY object`,
			Args: []any{num},
		}, func(r Row) error {
			var object int64
			var n int32
			err := r.Scan(&object, &n)
			refs[object] = n
			return err
		}); err != nil {
			return err
		}
		if _, err := tx.Exec(Stmt{SQL: `DELETE FROM segments WHERE topic=$1`, Args: []any{num}}); err != nil {
			return err
		}
		return release(tx, refs, "topic deleted", grace.Superseded)
	})
	if errors.Is(err, errSame) {
		return nil
	}
	return err
}

// ForgetTopic is metadata.Topics.
func (s *Store) ForgetTopic(ctx context.Context, num int32) error {
	err := s.change(ctx, fmt.Sprintf("forget topic %d", num), func(tx Tx) error {
		deleting, err := topicState(tx, num)
		switch {
		case errors.Is(err, metadata.ErrNotFound):
			return errSame
		case err != nil:
			return err
		case !deleting:
			return fmt.Errorf("it is not deleted: %w", metadata.ErrConflict)
		}
		_, err = tx.Exec(Stmt{SQL: `DELETE FROM topics WHERE num=$1`, Args: []any{num}})
		return err
	})
	if errors.Is(err, errSame) {
		return nil
	}
	return err
}

// SetTopicConfig is metadata.Topics.
func (s *Store) SetTopicConfig(ctx context.Context, num int32, config map[string]string) error {
	return s.change(ctx, fmt.Sprintf("configure topic %d", num), func(tx Tx) error {
		n, err := tx.Exec(Stmt{
			SQL:  `UPDATE topics SET config=$2 WHERE num=$1 AND NOT deleting`,
			Args: []any{num, encodeConfig(config)},
		})
		if err == nil && n == 0 {
			err = metadata.ErrNotFound
		}
		return err
	})
}

// SetBrokerConfig is metadata.Topics.
func (s *Store) SetBrokerConfig(ctx context.Context, agent int32, config map[string]string) error {
	return s.setConfig(ctx, brokerConfig, strconv.Itoa(int(agent)), config)
}

// SetGroupConfig is metadata.Topics.
func (s *Store) SetGroupConfig(ctx context.Context, group string, config map[string]string) error {
	return s.setConfig(ctx, groupConfig, group, config)
}

func (s *Store) setConfig(ctx context.Context, kind int, name string, config map[string]string) error {
	q := Stmt{
		SQL: `INSERT INTO configs (kind, name, config) VALUES ($1, $2, $3)
			ON CONFLICT (kind, name) DO UPDATE SET config=excluded.config`,
		Args: []any{kind, name, encodeConfig(config)},
	}
	if len(config) == 0 {
		q = Stmt{SQL: `DELETE FROM configs WHERE kind=$1 AND name=$2`, Args: []any{kind, name}}
	}
	return s.change(ctx, "configure "+name, func(tx Tx) error {
		_, err := tx.Exec(q)
		return err
	})
}
