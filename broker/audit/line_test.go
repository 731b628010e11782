package audit

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/daypass-dev/daypass/broker"
)

func FuzzLine(f *testing.F) {
	body, err := encodeBody(broker.Record{Event: broker.EventIssued, At: time.Unix(1790000000, 0).UTC(), Subject: "a\nb"})
	if err != nil {
		f.Fatal(err)
	}
	line, _ := appendLine(nil, chainID{"test", "b0"}, 7, Hash{1}, body)
	f.Add(line[:len(line)-1])
	f.Add(line)
	f.Add([]byte(`{"v":2,"deployment":"`))
	f.Add([]byte(`{"v":1,"deployment":"a","broker":"b","seq":0,"prev":"`))
	f.Fuzz(func(t *testing.T, line []byte) {
		h, err := parseLine(line)
		if err != nil {
			return
		}
		// What is accepted is exactly what would be written.
		again, sum := appendLine(nil, h.chain, h.seq, h.prev, h.body)
		if !bytes.Equal(bytes.TrimSuffix(again, []byte("\n")), line) || sum != h.hash {
			t.Fatalf("accepted %q, which would be written %q", line, again)
		}
		r, err := h.record()
		if err != nil {
			return
		}
		body, err := encodeBody(r)
		if err != nil {
			return // a year past 9999 can be read and not be written
		}
		r2, err := header{body: body}.record()
		if err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		if body2, err := encodeBody(r2); err != nil || !bytes.Equal(body, body2) {
			t.Fatalf("%s becomes %s", body, body2)
		}
	})
}

// FuzzRecord puts text that outsiders influence into a record: whatever it is,
// the record stays one line and comes back.
func FuzzRecord(f *testing.F) {
	for _, s := range []string{"", "\n", "\r\n", "\x00", `","hash":"`, "\xff\xfe", "\u2028", `"}`, "</script>"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, subject, claim string) {
		r := broker.Record{Event: broker.EventRefused, At: time.Unix(1790000000, 0).UTC(), Subject: subject,
			Claims: broker.Claims{"c": claim, claim: json.Number("1")}}
		body, err := encodeBody(r)
		if err != nil {
			return // too long for a record
		}
		line, _ := appendLine(nil, chainID{"test", "b0"}, 1, Hash{}, body)
		if n := bytes.Count(line, []byte("\n")); n != 1 || line[len(line)-1] != '\n' {
			t.Fatalf("%d lines: %q", n, line)
		}
		h, err := parseLine(line[:len(line)-1])
		if err != nil {
			t.Fatal(err)
		}
		back, err := h.record()
		if err != nil {
			t.Fatal(err)
		}
		again, err := encodeBody(back)
		if whole := utf8.ValidString(subject) && utf8.ValidString(claim); err != nil || whole && !bytes.Equal(again, body) {
			t.Fatalf("%s comes back as %s", body, again)
		}
	})
}

func TestARecordOfALaterReleaseIsReadWithoutItsNewMembers(t *testing.T) {
	body := []byte(`"event":"issued","at":"2026-11-23T00:00:00Z","colour":{"is":["new"]}`)
	line, _ := appendLine(nil, chainID{"test", "b0"}, 1, Hash{}, body)
	h, err := parseLine(bytes.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	want := broker.Record{Event: broker.EventIssued, At: time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)}
	if got, err := h.record(); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v %v", got, err)
	}
}
