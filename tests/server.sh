# To be sourced: builds the program, starts `poem-hanko dev` on a free port for a suite, and ends it with the suite.
# Sets API (its URL), HANKO (the URL of its local Hanko), TOKEN (a session token), COOKIE (a `Cookie` header with another
# session), UNVERIFIED (the token of a user whose e-mail address is not verified).

# Builds target/debug/poem-hanko. All features and an example make cargo compile the same as for its own tests, so that it
# builds no dependency twice.
build_program() {
  cargo build --locked --quiet --all-features --bin poem-hanko --example limits
}

# start_server BINARY FOLDER [PORT]: creates FOLDER, runs the server there and keeps its output there.
start_server() {
  local binary folder=$2 port=${3:-0}
  binary=$(realpath "$1")
  mkdir -p "$folder"
  # The output of an earlier run must not be mistaken for that of this one.
  : >"$folder/stdout"
  # Without the variables and the .env of the developer.
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

# sign_in FIELD=VALUE...: prints the session cookie as the value of a `Cookie` header.
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
