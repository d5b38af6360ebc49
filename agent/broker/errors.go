package broker

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"

	"varve.dev/metadata"
	"varve.dev/objectstore"
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
