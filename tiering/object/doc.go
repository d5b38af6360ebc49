// Package object is the one object format, in memory and as bytes: extents of whole record batches, sorted by partition,
// then a directory. WAL objects, packs and sealed objects are all of this form. Pure, no I/O.
//
//	object    = batch … batch | directory
//	directory = "VRVD" | version u8 | minimum reader u8 | 0 u16 | section … section | CRC32C u32 | length u32 | "VRVE"
//	section   = type u16, top bit set: critical | length u32 | payload
//
// All fixed-width numbers are big-endian, all others varints (zigzag where a value may be negative). CRC32C covers the
// directory up to itself; length is the whole directory's. A reader skips an unknown section unless its critical bit is
// set; a directory whose minimum reader is newer is refused. The index row of an object holds its directory byte for byte
// (WAL and pack) and its length (all), so that opening an object costs one exact ranged read.
//
// Sections, all critical, in this order:
//
//	1 header  cluster id 16 | incarnation | agent | session epoch | nonce u64 | first, last number | try |
//	          committed through | kind | created at (ms) | level
//	2 topics  count | (number | uuid 16 | name length | name) …
//	3 ranges  count | range …
//	4 blocks  count | (length | CRC32C u32) …
//
// A range is a contiguous stretch of offsets of one partition:
//
//	flags | topic number, delta | partition | base | end−base | leader epoch | base−epoch start | length |
//	max timestamp, delta to the range before | max−min timestamp |
//	 [records]             if the records are fewer than the offsets
//	 [max append time]     if any batch has LogAppendTime
//	 [generation | delete horizon]
//	 [epochs]              count | (epoch | start−base) …: history within the range, where it is more than one epoch
//	 [producers]           count | (id, delta | epoch | first seq | last seq − (first seq + offsets), 0 but for
//	                       compacted batches | last offset−base | last−base offset | timestamp−max |
//	                       [coordinator epoch | txn counter | first offset of the open transaction−base, plus one where
//	                       it is not negative; 0: none] if any entry of the range has one of them) …
//	 [index]               count | (offset delta | position delta | running max timestamp, delta) …
//	 [transactions]        markers, open at end, aborted overlapping the range: each count | fields …
//	 [cipher]              algorithm | key id | nonce base; additional data = cluster, topic uuid, partition, base, format
//
// Positions are not stored: ranges lie one after another from 0. In a WAL object producers are deltas, one entry for each
// idempotent batch; in a pack or a sealed object they are a snapshot at the range's end: the last five batches of every
// live producer. An index entry stands for a batch inside the range, never its first. Blocks end where a batch ends, at least BlockSize bytes after they began: nothing is hashed twice, a batch
// never straddles two blocks, and any cut into whole blocks can be checked by itself.
package object
