// Package audit is the journal of Daypass: append-only, fsynced, hash-chained,
// and checkable offline by whoever holds a copy of its files.
//
// It guarantees:
//
//   - [Journal.Append] returns nil only after the record is on stable storage;
//   - after any failed write or fsync nothing is appended until the journal
//     has cut the file back to what was acknowledged, has moved to a new file,
//     and that file has been fsynced: it fails closed, and recovers by itself;
//   - one writer per folder;
//   - a flipped, deleted, inserted, repeated or reordered record, a file that
//     is missing or doubled, and a cut anywhere but at the very end are found
//     by [Verify], which names the first bad record of each chain.
//
// It refuses to start on a history that does not hold together. Only an
// incomplete last line, which a crash leaves, is set aside and recorded.
//
// # Format
//
// A broker's history is one chain, in files <deployment>-<broker>-<seq>.jsonl,
// where seq, in ten digits or more, is that of the file's first record. A
// record is one line:
//
//	{"v":1,"deployment":"prod","broker":"b0","seq":7,"prev":"<64 hex>",<the record's members>,"hash":"<64 hex>"}
//
// with exactly this order and spacing. hash is the SHA-256, in lower-case
// hexadecimal, of the line's bytes before `,"hash":`. prev is the hash of the
// record with the number before; that of record 1 is all zeros. So the first
// bytes that differ from what was written, wherever they are, break a hash or
// a link. The record's members are those of [broker.Record].
//
// # What a chain cannot show
//
// The chain has no key. It does not show that records are missing from the
// very end, nor that somebody who can write to the folder has rewritten
// everything from some record on, hashes included, nor that old files were
// taken away from the beginning (a [ChainReport] says where the history
// begins). Against that, keep the [Head] of each chain where the broker cannot
// reach it, signed or not, and compare: a head that was once reported must
// still be in the chain.
package audit
