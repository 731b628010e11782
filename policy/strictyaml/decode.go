package strictyaml

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Decoder is implemented by types that read themselves. The error is a [*Fault]
// or [Faults]; any other error becomes a fault at the node.
type Decoder interface{ DecodeYAML(*Node) error }

// Decode reads a document within [DefaultLimits] into the struct or map that
// into points to. name is the file's name for faults. The error is [Faults];
// what could be read is read even then.
//
// Fields are named by a yaml tag, and `yaml:"name,required"` must be there.
// Fields may be bool, string, integers, floats, [time.Duration] (15m), [Date],
// [encoding/json.RawMessage] (any value, as JSON), *[Node], a [Decoder], and
// pointers, slices, maps with string keys and structs of these. A value of
// another type is a fault: 5 is not text and "5" is not a number.
func Decode(name string, data []byte, into any) error {
	doc, err := Parse(name, data, DefaultLimits())
	if doc == nil {
		return err
	}
	var faults Faults
	faults.Add(doc.Root, err)
	faults.Add(doc.Root, doc.Root.Decode(into))
	return faults.Err()
}

// Decode reads n into what into points to; see the function Decode.
func (n *Node) Decode(into any) error {
	v := reflect.ValueOf(into)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		panic(fmt.Sprintf("strictyaml: cannot decode into %T: it is not a pointer", into))
	}
	var faults Faults
	faults.decode(n, v.Elem())
	return faults.Err()
}

func (f *Faults) decode(n *Node, v reflect.Value) {
	if n.faulty {
		return
	}
	if v.Type() == reflect.TypeFor[*Node]() {
		v.Set(reflect.ValueOf(n))
		return
	}
	if d, ok := v.Addr().Interface().(Decoder); ok {
		f.Add(n, d.DecodeYAML(n))
		return
	}
	if n.Kind == Null {
		*f = append(*f, n.Fault("has no value: give one, or leave the key out"))
		return
	}
	switch into := v.Addr().Interface().(type) {
	case *time.Duration:
		d, fault := decodeDuration(n)
		f.fault(fault)
		*into = d
		return
	case *json.RawMessage:
		raw, err := n.JSON()
		f.Add(n, err)
		*into = raw
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.decode(n, v.Elem())
	case reflect.Struct:
		f.decodeStruct(n, v)
	case reflect.Map:
		f.decodeMap(n, v)
	case reflect.Slice:
		f.decodeList(n, v)
	default:
		f.fault(decodeScalar(n, v))
	}
}

func (f *Faults) fault(one *Fault) {
	if one != nil {
		*f = append(*f, one)
	}
}

func (f *Faults) decodeStruct(n *Node, v reflect.Value) {
	if n.Kind != Map {
		f.fault(n.Fault("must be a mapping, not %s", n.Kind))
		return
	}
	var room [24]structField
	fields := fieldsOf(v, n, room[:0])
	for _, k := range n.Keys {
		i := slices.IndexFunc(fields, func(f structField) bool { return f.name == k.Name })
		if i < 0 {
			names := make([]string, len(fields))
			for i, f := range fields {
				names[i] = f.name
			}
			f.fault(n.KeyFault(k, "unknown key%s", DidYouMean(k.Name, names)))
			continue
		}
		f.decode(k.Value, v.Field(fields[i].index))
	}
	for _, field := range fields {
		if field.required && n.Get(field.name) == nil {
			f.fault(n.Fault("%s is missing", field.name))
		}
	}
}

// structField is a field of a struct that has a key.
type structField struct {
	name     string
	index    int
	required bool
}

// fieldsOf appends the fields of a struct to fields, and sets those that are to
// hold the struct's own node.
func fieldsOf(v reflect.Value, n *Node, fields []structField) []structField {
	t := v.Type()
	for i := range t.NumField() {
		name, option, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		switch {
		case option == "node":
			v.Field(i).Set(reflect.ValueOf(n))
		case name != "":
			fields = append(fields, structField{name: name, index: i, required: option == "required"})
		}
	}
	return fields
}

func (f *Faults) decodeMap(n *Node, v reflect.Value) {
	if n.Kind != Map {
		f.fault(n.Fault("must be a mapping, not %s", n.Kind))
		return
	}
	v.Set(reflect.MakeMapWithSize(v.Type(), len(n.Keys)))
	for _, k := range n.Keys {
		value := reflect.New(v.Type().Elem()).Elem()
		f.decode(k.Value, value)
		v.SetMapIndex(reflect.ValueOf(k.Name).Convert(v.Type().Key()), value)
	}
}

func (f *Faults) decodeList(n *Node, v reflect.Value) {
	if n.Kind != List {
		f.fault(n.Fault("must be a list, not %s", n.Kind))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Items), len(n.Items)))
	for i, item := range n.Items {
		f.decode(item, v.Index(i))
	}
}

func decodeScalar(n *Node, v reflect.Value) *Fault {
	switch {
	case v.Kind() == reflect.String && n.Kind == Text:
		v.SetString(n.Text)
	case v.Kind() == reflect.String && (n.Kind == Number || n.Kind == Bool):
		return n.Fault("must be text, not %s: put it in quotes", n.Kind)
	case v.Kind() == reflect.String:
		return n.Fault("must be text, not %s", n.Kind)
	case v.Kind() == reflect.Bool && n.Kind == Bool:
		v.SetBool(n.Text == "true")
	case v.Kind() == reflect.Bool:
		return n.Fault("must be true or false, not %s", n.Kind)
	case v.CanInt() || v.CanUint() || v.CanFloat():
		return decodeNumber(n, v)
	default:
		panic(fmt.Sprintf("strictyaml: cannot decode into %s", v.Type()))
	}
	return nil
}

func decodeNumber(n *Node, v reflect.Value) *Fault {
	if n.Kind != Number {
		return n.Fault("must be a number, not %s", n.Kind)
	}
	bits := v.Type().Bits()
	switch {
	case v.CanInt():
		i, err := strconv.ParseInt(n.Text, 10, bits)
		if err != nil {
			return n.Fault("must be a whole number of at most %d bits", bits)
		}
		v.SetInt(i)
	case v.CanUint():
		u, err := strconv.ParseUint(n.Text, 10, bits)
		if err != nil {
			return n.Fault("must be a whole number from 0, of at most %d bits", bits)
		}
		v.SetUint(u)
	default:
		x, err := strconv.ParseFloat(n.Text, bits)
		if err != nil {
			return n.Fault("is a number too large")
		}
		v.SetFloat(x)
	}
	return nil
}
