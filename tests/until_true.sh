# For the scripts of the folders here, which have a function `fail` of their own.

# until_true WHAT COMMAND...: waits for the command to succeed.
until_true() {
    local what=$1 deadline=$((SECONDS + 30))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || fail "$what"
        sleep 0.1
    done
}
