package object

import (
	"encoding/binary"
	"hash/crc32"
	"slices"

	"varve.dev/tiering/batch"
)

// Append encodes d.
func (d *Directory) Append(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, head...)
	dst = append(dst, Version, MinReader, 0, 0)
	dst = section(dst, sectionHeader, d.appendHeader)
	dst = section(dst, sectionTopics, d.appendTopics)
	dst = section(dst, sectionRanges, d.appendRanges)
	dst = section(dst, sectionBlocks, d.appendBlocks)
	dst = binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(dst)-start+8))
	return append(dst, tail...)
}

func section(dst []byte, kind uint16, body func([]byte) []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, kind|critical)
	at := len(dst)
	dst = body(append(dst, 0, 0, 0, 0))
	binary.BigEndian.PutUint32(dst[at:], uint32(len(dst)-at-4))
	return dst
}

func (d *Directory) appendHeader(b []byte) []byte {
	h := &d.Header
	b = append(b, h.Cluster[:]...)
	b = binary.AppendVarint(b, int64(h.Incarnation))
	b = binary.AppendVarint(b, int64(h.Agent))
	b = binary.AppendVarint(b, int64(h.Session))
	b = binary.BigEndian.AppendUint64(b, h.Nonce)
	for _, v := range [...]int64{h.First, h.Last, int64(h.Try), h.CommittedThrough, int64(h.Kind), h.CreatedAt, int64(h.Level)} {
		b = binary.AppendVarint(b, v)
	}
	return b
}

func (d *Directory) appendTopics(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(d.Topics)))
	for _, t := range d.Topics {
		b = binary.AppendVarint(b, int64(t.Num))
		b = append(b, t.ID[:]...)
		b = binary.AppendUvarint(b, uint64(len(t.Name)))
		b = append(b, t.Name...)
	}
	return b
}

func (d *Directory) appendBlocks(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(d.Blocks.Ends)))
	var last int64
	for i, end := range d.Blocks.Ends {
		b = binary.AppendUvarint(b, uint64(end-last))
		b = binary.BigEndian.AppendUint32(b, d.Blocks.Sums[i])
		last = end
	}
	return b
}

func (d *Directory) appendRanges(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(d.Ranges)))
	var last Range
	for i := range d.Ranges {
		r := &d.Ranges[i]
		b = binary.AppendUvarint(b, r.flags())
		b = binary.AppendVarint(b, int64(r.Partition.Topic-last.Partition.Topic))
		b = r.append(b, last.MaxTimestamp)
		last = *r
	}
	return b
}

func (r *Range) flags() (f uint64) {
	x := r.rare()
	set := func(bit uint64, on bool) {
		if on {
			f |= bit
		}
	}
	set(flagGap, r.Gap)
	set(flagSnapshot, r.Snapshot)
	set(flagRecords, r.Records != r.End-r.Base)
	set(flagAppendTime, r.MaxAppendTime >= 0)
	set(flagGeneration, r.Generation != 0 || x.DeleteHorizon != 0)
	set(flagEpochs, len(x.Epochs) > 0)
	set(flagProducers, len(r.Producers) > 0)
	set(flagIndex, len(r.Index) > 0)
	set(flagTxn, len(x.Markers)+len(x.Open)+len(x.Aborted) > 0)
	set(flagCipher, x.Cipher.Algorithm != 0)
	set(flagTxnProducers, slices.ContainsFunc(r.Producers, func(p Producer) bool {
		return p.CoordinatorEpoch != 0 || p.TxnCounter != 0 || p.TxnFirst >= 0
	}))
	return f
}

func (r *Range) append(b []byte, lastTimestamp int64) []byte {
	put := func(vs ...int64) {
		for _, v := range vs {
			b = binary.AppendVarint(b, v)
		}
	}
	f, x := r.flags(), r.rare()
	put(int64(r.Partition.Partition), r.Base, r.End-r.Base, int64(r.LeaderEpoch), r.Base-r.EpochStart, r.Len,
		r.MaxTimestamp-lastTimestamp, r.MaxTimestamp-r.MinTimestamp)
	if f&flagRecords != 0 {
		put(r.Records)
	}
	if f&flagAppendTime != 0 {
		put(r.MaxAppendTime)
	}
	if f&flagGeneration != 0 {
		put(int64(r.Generation), x.DeleteHorizon)
	}
	if f&flagEpochs != 0 {
		put(int64(len(x.Epochs)))
		for _, e := range x.Epochs {
			put(int64(e.Epoch), e.Start-r.Base)
		}
	}
	if f&flagProducers != 0 {
		b = r.appendProducers(b, f&flagTxnProducers != 0)
	}
	if f&flagIndex != 0 {
		put(int64(len(r.Index)))
		last := IndexEntry{Offset: r.Base, MaxTimestamp: r.MaxTimestamp}
		for _, e := range r.Index {
			put(e.Offset-last.Offset, e.Pos-last.Pos, e.MaxTimestamp-last.MaxTimestamp)
			last = e
		}
	}
	if f&flagTxn != 0 {
		put(int64(len(x.Markers)))
		for _, m := range x.Markers {
			commit := int64(0)
			if m.Commit {
				commit = 1
			}
			put(m.ID, int64(m.Epoch), commit, m.Offset-r.Base)
		}
		put(int64(len(x.Open)))
		for _, o := range x.Open {
			put(o.ID, o.First-r.Base)
		}
		put(int64(len(x.Aborted)))
		for _, a := range x.Aborted {
			put(a.ID, a.First-r.Base, a.Last-r.Base)
		}
	}
	if f&flagCipher != 0 {
		put(int64(x.Cipher.Algorithm), int64(len(x.Cipher.KeyID)))
		b = append(b, x.Cipher.KeyID...)
		put(int64(len(x.Cipher.Nonce)))
		b = append(b, x.Cipher.Nonce...)
	}
	return b
}

// appendProducers tells offsets from the range's base, and times from its largest; txn: with what transactions need.
func (r *Range) appendProducers(b []byte, txn bool) []byte {
	b = binary.AppendVarint(b, int64(len(r.Producers)))
	id := int64(0)
	for i := range r.Producers {
		p := &r.Producers[i]
		for _, v := range [...]int64{p.ID - id, int64(p.Epoch), int64(p.FirstSeq), int64(p.LastSeq) - p.usualLastSeq(), p.LastOffset - r.Base,
			p.LastOffset - p.BaseOffset, p.Timestamp - r.MaxTimestamp} {
			b = binary.AppendVarint(b, v)
		}
		id = p.ID
		if txn {
			for _, v := range [...]int64{int64(p.CoordinatorEpoch), p.TxnCounter, encodeTxnFirst(p.TxnFirst, r.Base)} {
				b = binary.AppendVarint(b, v)
			}
		}
	}
	return b
}

// usualLastSeq is the last sequence number of a batch that has as many records as offsets.
func (p *Producer) usualLastSeq() int64 {
	return int64(batch.AddSequence(p.FirstSeq, int32(p.LastOffset-p.BaseOffset)))
}

// encodeTxnFirst tells an offset by its distance from the range's base, which it may precede; 0 stands for none.
func encodeTxnFirst(first, base int64) int64 {
	switch {
	case first < 0:
		return 0
	case first >= base:
		return first - base + 1
	}
	return first - base
}

func decodeTxnFirst(v, base int64) int64 {
	switch {
	case v == 0:
		return -1
	case v > 0:
		return base + v - 1
	}
	return base + v
}
