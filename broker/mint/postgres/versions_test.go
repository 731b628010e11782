package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/daypass-dev/daypass/broker/brokertest/npm"
)

// versionEnv says what servers the tests start: the major version of one that
// npm installs, or a folder of programs. Where it says nothing, they start
// Debian's.
const versionEnv = "DAYPASS_TEST_POSTGRES"

// programs is the folder of their programs; empty: Debian's.
var programs string

// pinned are the versions that npm has for this machine, beside Debian's.
func pinned() []int {
	if runtime.GOARCH == "arm64" {
		return []int{16, 17, 18}
	}
	return []int{12, 13, 14, 16, 17, 18}
}

func install(ctx context.Context) (*npm.Postgres, error) {
	return npm.InstallPostgres(ctx, filepath.Join("testdata", "servers"))
}

// choose finds the programs, and returns what to do when no server runs any
// more.
func choose(ctx context.Context) (done func(), err error) {
	done = func() {}
	wanted := os.Getenv(versionEnv)
	if wanted == "" {
		return done, nil
	}
	version, err := strconv.Atoi(wanted)
	if err != nil {
		programs = wanted
		return done, nil
	}
	all, err := install(ctx)
	if err != nil {
		return done, err
	}
	done = func() {
		if err := all.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	programs, err = all.Bin(version)
	return done, err
}

// major is the version of the servers that the tests run on.
func major(t *testing.T) int {
	t.Helper()
	return ask[int](t, adminConn(t), "SELECT current_setting('server_version_num')::int / 10000")
}

// telling are the tests that run on every version each time. The soak runs
// all.
var telling = []string{
	"^TestPostgresKeepsTheContractOfAMinter$/CREATEROLE",
	"^TestWhatAUserOwnsEndsAsTheGrantSays$", "^TestCodeThatAJobLeavesBehindRunsWithNobodysRights$",
	"^TestAUserThatIsKeptLosesWhatItWasGranted$", "^TestADatabaseOrTablespaceOfAUserIsKeptInEveryWay$",
	"^TestDropLeavesWhatOthersBuiltOn$", "^TestWhoeverTheJobGrantedItselfToLosesItsRights$",
	"^TestOpenSessionsEndWhenTheUserIsTakenBack$", "^TestLoginEndsByItselfAtTheExpiry$",
	"^TestAJobCannotPassItselfOffAsKept$", "^TestGroupsThatCouldMakeUsersOfTheirOwnAreRefused$",
	"^TestTheGuardOutlivesTheServersTimeLimits$", "^TestAdminsThatTakeTurnsTakeBackWhatTheOtherMade$",
	"^TestAUserIsNotTakenBackWhileAnotherAdminsGrantGivesItsRoutinesRights$", "^TestAGroupThatAUserHandedOnIsNotInTheWay$",
	"^TestASubscriptionOfAJobStopsWhenItIsTakenBack$", "^TestNewSortsOfColumnsAreJudgedAsTheOldOnesAre$",
}

func TestTheKindWorksOnEveryVersionOfPostgreSQL(t *testing.T) {
	if programs != "" {
		return // these are the tests on one of them
	}
	all, err := install(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := all.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, version := range pinned() {
		t.Run(strconv.Itoa(version), func(t *testing.T) {
			t.Parallel()
			bin, err := all.Bin(version)
			if err != nil {
				t.Fatal(err)
			}
			runOn(t, version, bin)
		})
	}
}

// runOn runs this program's tests once more, on other servers.
func runOn(t *testing.T, version int, bin string) {
	said, err := osexec.CommandContext(t.Context(), filepath.Join(bin, "postgres"), "--version").Output()
	if err != nil || !strings.HasPrefix(string(said), fmt.Sprintf("postgres (PostgreSQL) %d.", version)) {
		t.Fatalf("it says of itself %q, %v", said, err)
	}
	wanted := strings.Join(telling, "|")
	if os.Getenv("DAYPASS_SOAK") != "" {
		wanted = "."
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := osexec.CommandContext(t.Context(), self, "-test.v", "-test.run="+wanted, "-test.timeout=40m")
	cmd.Env = append(os.Environ(), versionEnv+"="+bin)
	out, err := cmd.CombinedOutput()
	if _, failed := errors.AsType[*osexec.ExitError](err); err != nil && !failed {
		t.Fatal(err)
	}
	for _, test := range telling {
		name, _, _ := strings.Cut(strings.Trim(test, "^"), "$")
		if !strings.Contains(string(out), "--- PASS: "+name+" ") {
			t.Errorf("%s does not pass", name)
		}
	}
	if err != nil || t.Failed() {
		t.Errorf("%v\n%s", err, out)
	}
}
