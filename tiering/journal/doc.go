// Package journal is the crash log of uncommitted windows: written on demand, read once, at start.
//
// A journal is one directory, locked for the life of the process:
//
//	LOCK                    flock; holds the pid
//	live/id                 the journal's uuid: a tail belongs to a journal, not to a name
//	live/000001.log …       files of frames
//	quarantine-<uuid>[-n]/  a former live/, whole, in which corruption was found
//
// # File
//
// A file is created and filled with zeros ahead, and recycled when all it holds is committed. Each use of a file is a
// life, with a number of its own. Two copies of its header stand at 0 and 4096; frames start at 8192. Big endian:
//
//	 0  magic "varvejnl"
//	 8  format version (u16), lowest version a reader must know (u16), zero (u32)
//	16  journal uuid
//	32  life (u64)
//	40  position of the first frame (u64)
//	48  bytes for frames (u64)
//	56  released: every frame below this position was committed before this life began (u64)
//	64  cut: positions [64, 72) were discarded when this process recovered (u64, u64)
//	80  salt (u32)
//	84  CRC32C of the 84 bytes before (u32)
//
// The first copy is written and synced, then the second, then frames: after a crash at least one copy is whole, so a file
// with two bad copies is damaged, not new. Positions count bytes of frames over all files and lives: a life starts where
// the one before could at most have ended, so its header can be written ahead.
//
// # Frame
//
//	 0  CRC32C, started from the life's salt, over bytes 4–64 and the first 21 bytes of the batch (u32)
//	 4  length of the batch (u32)
//	 8  position of this frame (u64)
//	16  mark: every position below was known to be on disk when this frame was written (u64)
//	24  topic number, partition (i32, i32)
//	32  session epoch, leader epoch (i32, i32)
//	40  window (i64)
//	48  released: every position below was committed when this frame was written (u64)
//	56  kind (u8): 1 batch; 2 and 3 are kept for commit and discard marks
//	57  flags (u8): 0x80 critical: who does not know kind or flags must refuse the journal instead of skipping the frame
//	58  bytes between the end of the frame before and this one: 0 but for the first of a life (u48)
//	64  the batch, then zeros up to a multiple of 8
//
// The batch's own CRC covers its bytes from 21 on, so nothing is hashed twice. Frames of a file's earlier life never
// pass: another salt, another position.
//
// # Reading it back
//
// The log is the chain of frames in which each names the end of the one before. Where the chain breaks, at position p,
// marks decide: if a whole frame of the same or of a later life was written when p was already known to be on disk, or if
// the session row says so, the bytes rotted; the journal is set aside and refused. Otherwise p is the torn end of what
// was never synced, hence never relied on, and what follows is cut, for ever (header field cut). Files are synced and
// dropped from the page cache before they are read: what comes back is on the disk.
package journal
