package main

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"
)

func TestPolicySchemaPrintsASchemaAndTakesNoArguments(t *testing.T) {
	var out, errs bytes.Buffer
	p := process{env: os.LookupEnv, stdout: &out, stderr: &errs}
	if code := run(t.Context(), []string{"policy", "schema"}, p); code != exitOK || errs.Len() > 0 {
		t.Errorf("exit %d: %s", code, errs.String())
	}
	var schema struct {
		Schema string         `json:"$schema"`
		Defs   map[string]any `json:"$defs"`
	}
	if err := json.Unmarshal(out.Bytes(), &schema); err != nil || schema.Schema != "https://json-schema.org/draft/2020-12/schema" || schema.Defs["rule"] == nil {
		t.Errorf("printed %v: %.200s", err, out.String())
	}
	if code := run(t.Context(), []string{"policy", "schema", "./policies"}, p); code != exitUsage {
		t.Errorf("exit %d with an argument", code)
	}
}
