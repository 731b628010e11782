#!/bin/sh
# Makes sure that what a make target needs is there, and installs what is
# missing from Debian's packages. Usage: need.sh WHAT…, where WHAT is one of
#   cc        a C compiler, for the race detector
#   redis     redis-server
#   postgres  PostgreSQL's server binaries and psql
#   mariadb   MariaDB's server and client
#   node      Node.js and npm, for the opinions of other libraries and clients, and
#             for PostgreSQL of other versions
# Servers are never started system-wide: tests and the demo start their own.
set -eu

have_postgres() {
	command -v psql >/dev/null 2>&1 || return 1
	command -v postgres >/dev/null 2>&1 && return 0
	for bin in /usr/lib/postgresql/*/bin/postgres; do
		[ -x "$bin" ] && return 0
	done
	return 1
}

packages=""
for what in "$@"; do
	case "$what" in
	cc) command -v gcc >/dev/null 2>&1 && echo 'int main(void){return 0;}' | gcc -x c -o /dev/null - 2>/dev/null ||
		packages="$packages gcc libc6-dev" ;;
	redis) command -v redis-server >/dev/null 2>&1 || packages="$packages redis-server" ;;
	mariadb) { command -v mariadb && { command -v mariadbd || [ -x /usr/sbin/mariadbd ]; }; } >/dev/null 2>&1 || packages="$packages mariadb-server mariadb-client" ;;
	postgres) have_postgres || packages="$packages postgresql postgresql-client" ;;
	node) { command -v node && command -v npm; } >/dev/null 2>&1 || packages="$packages nodejs npm" ;;
	*) echo "need.sh: unknown need '$what'" >&2; exit 2 ;;
	esac
done
[ -n "$packages" ] || exit 0

if [ "$(id -u)" -eq 0 ]; then
	as_root=""
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
	as_root="sudo"
else
	echo "missing:$packages" >&2
	echo "install them first:  sudo apt-get install --no-install-recommends$packages" >&2
	exit 1
fi
if ! command -v apt-get >/dev/null 2>&1; then
	echo "missing:$packages (Debian's names); install what your system calls them" >&2
	exit 1
fi

# Debian starts a server when its package is installed. Ours are private, so
# that is refused for the time of the install, unless it is refused already.
policy=/usr/sbin/policy-rc.d
made=""
log=$(mktemp)
cleanup() {
	rm -f "$log"
	[ -z "$made" ] || $as_root rm -f "$policy"
}
trap cleanup EXIT
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
	$as_root chmod 755 "$policy"
	made=yes
fi

apt() {
	$as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -qq "$@" >>"$log" 2>&1 || {
		cat "$log" >&2
		echo "apt-get $* failed" >&2
		exit 1
	}
}
echo "installing:$packages"
apt update
# shellcheck disable=SC2086 # a list of packages
apt -y install --no-install-recommends $packages
