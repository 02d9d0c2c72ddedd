# To be sourced: builds the program, starts `poem-hanko dev` on a free port for a suite, and ends it with the suite.
# Sets API (its URL), HANKO (that of its local Hanko), TOKEN (a session token), COOKIE (that of another session, as a
# `Cookie` header has it), UNVERIFIED (the token of a user whose e-mail address is not verified).

# Builds target/debug/poem-hanko. With all features and beside an example, so that cargo compiles the same as for its own tests
# and builds no dependency twice.
build_program() {
  cargo build --locked --quiet --all-features --bin poem-hanko --example limits
}

# start_server BINARY FOLDER [PORT]: FOLDER is made, and is where the server runs and its output is kept.
start_server() {
  local binary folder=$2 port=${3:-0}
  binary=$(realpath "$1")
  mkdir -p "$folder"
  # What an earlier run has left must not be taken for an answer of this one.
  : >"$folder/stdout"
  # Neither the variables nor the .env of whoever runs this have a say.
  (cd "$folder" && exec env -i PATH="$PATH" PORT="$port" RUST_LOG="${RUST_LOG:-warn}" "$binary" dev) \
    >"$folder/stdout" 2>"$folder/stderr" </dev/null &
  server_pid=$!
  trap stop_server EXIT
  local tries=0
  until grep -q '^curl ' "$folder/stdout"; do
    tries=$((tries + 1))
    if [ "$tries" -gt 300 ] || ! kill -0 "$server_pid" 2>/dev/null; then
      echo "error: the server did not start:" >&2
      cat "$folder/stderr" >&2
      return 1
    fi
    sleep 0.1
  done
  API=$(sed -n 's/^API  *//p' "$folder/stdout")
  HANKO=$(sed -n 's/^Local Hanko  *\([^ ]*\).*/\1/p' "$folder/stdout")
  TOKEN=$(sed -n "s/^curl .*Bearer \([^']*\)'.*/\1/p" "$folder/stdout")
  COOKIE=$(sign_in email=grace@example.com username=grace)
  UNVERIFIED=$(sign_in email=bob@example.com unverified=true)
  UNVERIFIED=${UNVERIFIED#*=}
  if [ -z "$API" ] || [ -z "$HANKO" ] || [ -z "$TOKEN" ] || [ -z "$COOKIE" ] || [ -z "$UNVERIFIED" ]; then
    echo "error: the server printed no URLs, token or cookie" >&2
    return 1
  fi
  export API HANKO TOKEN COOKIE UNVERIFIED
}

# sign_in FIELD=VALUE...: prints the session cookie, as a `Cookie` header has it.
sign_in() {
  local fields=() field
  for field; do
    fields+=(--data-urlencode "$field")
  done
  curl -sS -o /dev/null -D - "${fields[@]}" "$API/dev/sign-in" |
    sed -n 's/^set-cookie: \([^;]*\).*/\1/Ip'
}

stop_server() {
  kill "$server_pid" 2>/dev/null || true
  wait "$server_pid" 2>/dev/null || true
}
