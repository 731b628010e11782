package daypass_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	daypass "github.com/daypass-dev/daypass/clients/go"
	"github.com/daypass-dev/daypass/clients/go/daypasstest"
)

func migrate(ctx context.Context) error {
	client, err := daypass.FromEnv(nil) // DAYPASS_URL, and the CI provider's token
	if err != nil {
		return err
	}
	answer, err := client.Exchange(ctx, daypass.Grant{Name: "orders-db"})
	if err != nil {
		return err
	}
	defer client.GiveBack(context.WithoutCancel(ctx), answer.Session.Token)

	db := answer.Credentials[0]
	return connect(ctx, db.Fields["username"].Reveal(), db.Fields["password"].Reveal())
}

func connect(_ context.Context, username, _ string) error {
	fmt.Println("connected as", username)
	return nil
}

func Example() {
	broker := new(daypasstest.Broker)
	broker.Grant("orders-db", daypasstest.Credential{Fields: map[string]string{"username": "dp_demo", "password": "p"}})
	srv := httptest.NewServer(broker)
	defer srv.Close()
	os.Setenv("DAYPASS_URL", srv.URL)
	os.Setenv("DAYPASS_ID_TOKEN", daypasstest.Token("of-this-job"))
	defer os.Unsetenv("DAYPASS_URL")
	defer os.Unsetenv("DAYPASS_ID_TOKEN")

	err := migrate(context.Background())
	if refusal, ok := errors.AsType[*daypass.Error](err); ok && refusal.Code == daypass.Denied {
		fmt.Println("policy says no; quote", refusal.RequestID)
	}
	fmt.Println("left behind:", broker.Live())
	// Output:
	// connected as dp_demo
	// left behind: []
}

// The README shows code that compiles, since it is the code above.
func TestTheReadmeShowsTheExample(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(readme), "```go\n")
	snippet, _, closed := strings.Cut(rest, "```")
	if !found || !closed || !strings.Contains(string(source), snippet) {
		t.Errorf("the README's snippet is not in example_test.go:\n%s", snippet)
	}
}
