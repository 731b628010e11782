#!/bin/sh
# Unpacks MySQL's server with its libraries into a folder of its own, and prints
# the path of a mysqld that runs from there. Usage: mysql.sh FOLDER
#
# Debian's releases have MariaDB; its unstable branch has MySQL, and a server of
# that kind replaces MariaDB where it is installed. So nothing is installed: apt
# works in the folder, with lists and a status of its own, and with the mirror
# and the keys that the machine has. What unstable has changes from day to day,
# which is why `make test` does not ask for it.
set -eu
[ $# -eq 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
mkdir -p "$1"
dir=$(cd "$1" && pwd)
mysqld=$dir/mysqld
if [ -x "$mysqld" ]; then
	echo "$mysqld"
	exit 0
fi

mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep '/debian/*$' | head -n 1)
mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial" "$dir/deb" "$dir/root"
: >"$dir/apt/status" # nothing is installed, so that all libraries are named
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror:-http://deb.debian.org/debian} sid main" >"$dir/apt/sources.list"
cat >"$dir/apt/apt.conf" <<CONF
Dir::Etc::sourcelist "$dir/apt/sources.list";
Dir::Etc::sourceparts "-";
Dir::State "$dir/apt";
Dir::State::lists "$dir/apt/lists";
Dir::State::status "$dir/apt/status";
Dir::Cache "$dir/apt/cache";
APT::Sandbox::User "";
CONF
export APT_CONFIG="$dir/apt/apt.conf"
{
	apt-get -qq update
	packages=$(apt-get -s --no-install-recommends install mysql-server-core |
		awk '/^Inst / && $2 !~ /^(perl|libperl|perl-)/ {print $2}')
	# shellcheck disable=SC2086 # a list of packages
	(cd "$dir/deb" && apt-get -qq download $packages)
	for deb in "$dir"/deb/*.deb; do
		dpkg-deb -x "$deb" "$dir/root"
	done
	rm -rf "$dir/deb" "$dir/apt/lists" "$dir/apt/cache"
} >&2

# Its own loader finds its own libraries, whatever the machine has. What is said
# last holds, so paths come last.
quoted=$(printf '%s' "$dir" | sed "s/'/'\\\\''/g")
cat >"$mysqld" <<WRAPPER
#!/bin/sh
root='$quoted/root'
lib=\$root/usr/lib/$(uname -m)-linux-gnu
exec "\$(echo "\$lib"/ld-linux-*.so.*)" --library-path "\$lib" "\$root/usr/sbin/mysqld" "\$@" --basedir="\$root/usr" \\
	--lc-messages-dir="\$root/usr/share/mysql" --character-sets-dir="\$root/usr/share/mysql/charsets" --plugin-dir="\$root/usr/lib/mysql/plugin"
WRAPPER
chmod 755 "$dir" "$dir/root" "$mysqld"
"$mysqld" --no-defaults --version >&2
echo "$mysqld"
