package broker

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"

	"varve.dev/agent/session"
	"varve.dev/metadata"
	"varve.dev/objectstore"
	"varve.dev/tiering/batch"
	"varve.dev/tiering/batch/codec"
	"varve.dev/tiering/fetch"
	"varve.dev/tiering/flush"
	"varve.dev/tiering/object"
	"varve.dev/tiering/partition"
)

// KafkaError is the one map from our errors to Kafka's; nil is nil. A *kerr.Error in err's chain is the answer itself,
// so a handler may name Kafka's errors directly.
//
// Definite errors are given only where nothing was done. What may have been done is REQUEST_TIMED_OUT, which every
// client takes for "unknown" and retries.
func KafkaError(err error) *kerr.Error {
	if err == nil {
		return nil
	}
	var k *kerr.Error
	switch {
	case errors.As(err, &k):
		return k
	case errors.Is(err, metadata.ErrFenced):
		return kerr.NotLeaderForPartition
	case errors.Is(err, metadata.ErrUnknown),
		errors.Is(err, metadata.ErrUnavailable),
		errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, context.Canceled):
		return kerr.RequestTimedOut
	case errors.Is(err, metadata.ErrNotFound):
		return kerr.UnknownTopicOrPartition
	case errors.Is(err, metadata.ErrExists):
		return kerr.TopicAlreadyExists
	case errors.Is(err, partition.ErrNotLeader), errors.Is(err, session.ErrWaiting):
		return kerr.NotLeaderForPartition
	case errors.Is(err, partition.ErrOutOfRange):
		return kerr.OffsetOutOfRange
	case errors.Is(err, partition.ErrOutOfOrder):
		return kerr.OutOfOrderSequenceNumber
	case errors.Is(err, partition.ErrProducerFenced):
		return kerr.InvalidProducerEpoch
	case errors.Is(err, partition.ErrTooLarge):
		return kerr.MessageTooLarge
	case errors.Is(err, partition.ErrTimestamp):
		return kerr.InvalidTimestamp
	case errors.Is(err, partition.ErrTransactions):
		return kerr.InvalidTxnState
	case errors.Is(err, partition.ErrEpochFenced):
		return kerr.FencedLeaderEpoch
	case errors.Is(err, partition.ErrEpochUnknown):
		return kerr.UnknownLeaderEpoch
	case errors.Is(err, partition.ErrTailFull), errors.Is(err, flush.ErrBusy):
		return kerr.NotEnoughReplicas // back-pressure: retriable, and surely not appended
	case errors.Is(err, flush.ErrEnded):
		return kerr.NotLeaderForPartition // before append; what was appended is answered by its waiter
	case errors.Is(err, batch.ErrCorrupt), errors.Is(err, codec.ErrCorrupt):
		return kerr.CorruptMessage
	case errors.Is(err, batch.ErrOldFormat):
		return kerr.UnsupportedForMessageFormat
	case errors.Is(err, batch.ErrInvalid):
		return kerr.InvalidRecord
	case errors.Is(err, codec.ErrTooLarge):
		return kerr.MessageTooLarge
	case errors.Is(err, fetch.ErrHole), errors.Is(err, object.ErrCorrupt):
		return kerr.KafkaStorageError
	case errors.Is(err, objectstore.ErrUnavailable),
		errors.Is(err, objectstore.ErrThrottled),
		errors.Is(err, objectstore.ErrChecksum),
		errors.Is(err, objectstore.ErrNotFound):
		return kerr.KafkaStorageError // retriable: the next reader finds another copy, or the store is back
	}
	return kerr.UnknownServerError
}

// Code is KafkaError as a number; 0 is no error.
func Code(err error) int16 {
	if k := KafkaError(err); k != nil {
		return k.Code
	}
	return 0
}

// text is err for a response's nullable message.
func text(err error) *string {
	if err == nil {
		return nil
	}
	s := err.Error()
	var d *detail
	if errors.As(err, &d) {
		s = d.text
	}
	return &s
}

// detail is one of Kafka's errors with a sentence for a person.
type detail struct {
	kafka *kerr.Error
	text  string
}

func (d *detail) Error() string { return d.kafka.Message + ": " + d.text }

func (d *detail) Unwrap() error { return d.kafka }

// explain says what is wrong under one of Kafka's codes.
func explain(kafka *kerr.Error, text string) error { return &detail{kafka, text} }
