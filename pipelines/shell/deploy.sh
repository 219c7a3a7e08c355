#!/usr/bin/env bash
# Releases through the state server for CI systems without a template of their own: bash, curl and jq, nothing else.
# Does what `safe-deploy` does, with the same variables and exit codes, but cannot look at the platform.
usage() {
  cat <<'END'
usage: deploy.sh status | stage | cleanup
       deploy.sh swap | rollback  -- COMMAND...
       deploy.sh swap | rollback  --outcome pending|done|failed

  status    may the slot be overwritten? With SAFE_DEPLOY_WAIT=true, wait until it may
  stage     put SAFE_DEPLOY_TASK_HUB into the slot
  swap      promote SAFE_DEPLOY_TASK_HUB: say so, run COMMAND, which swaps on the platform, and confirm. If COMMAND fails
            or is interrupted, the swap stays pending (6) until a person has looked, as nobody here can, and the
            platform goes on with what it has accepted. With --outcome: who swaps or looks says how it stands: pending
            before the platform's swap, done when production carries the task hub, failed when it does not
  rollback  the same for the task hub that was swapped out and is still in the slot
  cleanup   remove retired task hubs that have drained

Variables (an empty one counts as not set):
  SAFE_DEPLOY_SERVER            the server's address, required
  SAFE_DEPLOY_APP               the app, required
  SAFE_DEPLOY_KEY               the key, if the server wants one
  SAFE_DEPLOY_RUN_URL           the address of this run, the same for every step and every attempt; else of the CI
                                system (GitLab, Buildkite, Bitbucket, Jenkins)
  SAFE_DEPLOY_ACTOR             who releases, for the audit log
  SAFE_DEPLOY_SLOT              staging if not set
  SAFE_DEPLOY_TASK_HUB          stage, swap: the task hub of this release; rollback: that to go back to, if it must be it
  SAFE_DEPLOY_VERSION           stage: the version, for people
  SAFE_DEPLOY_FORCE, SAFE_DEPLOY_TAKE_OVER, SAFE_DEPLOY_REASON        stage: true, true, and why
  SAFE_DEPLOY_WAIT, SAFE_DEPLOY_TIMEOUT, SAFE_DEPLOY_VERIFY           status: true; seconds, 3600; cached, fresh, none
  SAFE_DEPLOY_DRY_RUN, SAFE_DEPLOY_DELETE_TASK_HUBS                   cleanup: true
  SAFE_DEPLOY_RETRY_FOR          how many seconds a server that does not answer is asked again, 120

Exit codes: 0 done or ready, 1 failure, 2 usage, 3 not ready, 4 not allowed, 5 timed out, 6 conflict.
The result goes to stdout as JSON, all else to stderr.
END
}
set -euo pipefail

# Ids, names, versions and texts of the server come from outside. Everything that is printed goes through these two: on one
# line, with an escape such as \u001b in place of what is no plain letter, and never a command of a CI system. GitHub's
# runner takes a line that begins with `::` and has a second one, or that has `##[`; Azure's agent looks for `##vso[`.
printable() { # TEXT
  jq -nr --arg text "$1" '
    def digits: [12, 8, 4, 0] as $shifts | "0123456789abcdef" as $hex | . as $code
      | $shifts | map(($code / pow(2; .) | floor) % 16) | map($hex[.:. + 1]) | add;
    def plain: (. >= 32 and . <= 126) or (. >= 161 and . <= 591 and . != 173) or (. >= 880 and . <= 1154)
      or (. >= 12353 and . <= 12543) or (. >= 19968 and . <= 40959) or (. >= 44032 and . <= 55203);
    $text[:10000] | explode | map(if plain then [.] | implode elif . < 65536 then "\\u" + digits
      else "\\u{" + (. / 65536 | floor | digits) + digits + "}" end)
    | add // "" | gsub("#(?=#)"; "# ")
    | gsub("(?<run>(?<![^ ])(?>:{2,})|(?>:{2,})(?=.*::)|:{4,})"; .run | explode | map([.] | implode) | join(" "))'
}
json() { jq --ascii-output . <<<"$1" | sed -e 's/##/#\\u0023/g'; }

say() { printf 'deploy.sh: %s\n' "$(printable "$*")" >&2; }

hint='' # what a failure has to add at this moment

fail() { # CODE MESSAGE
  say "$2$hint"
  exit "$1"
}

# The key is written by a builtin into a pipe, so it is in no argument list, and `ps` shows it to nobody.
headers() {
  printf 'Accept: application/json\nContent-Type: application/json\n'
  [[ -z "${SAFE_DEPLOY_KEY:-}" ]] || printf 'x-functions-key: %s\n' "$SAFE_DEPLOY_KEY"
  [[ -z "$actor" ]] || printf 'X-Actor: %s\n' "$actor"
  [[ -z "$run_url" ]] || printf 'X-Run-Url: %s\n' "$run_url"
}

# METHOD PATH [BODY]: leaves the server's answer in `answer`. Asks again while the server is away or busy: every request
# here can be repeated without harm. Ends the script with the exit code for a refusal.
ask() {
  local method=$1 path=$2 body=${3:-} started=$SECONDS pause=1 status trouble
  local curl=(curl --silent --show-error --connect-timeout 10 --max-time 200 --request "$method" --write-out '\n%{http_code}')
  [[ -z "$body" ]] || curl+=(--data-binary @-)
  while true; do
    if answer=$("${curl[@]}" --header @<(headers) "$server/api$path" <<<"$body" 2>&1); then
      status=${answer##*$'\n'}
      answer=${answer%$'\n'*}
      case "$status" in
        2??)
          jq -e 'type == "object"' >/dev/null 2>&1 <<<"$answer" ||
            fail 1 "$server answers, but not as a state server does; check SAFE_DEPLOY_SERVER"
          return
          ;;
        429 | 502 | 503 | 504) trouble="the server answered with status $status" ;;
        *) refuse "$status" ;;
      esac
    else
      trouble="the server cannot be reached: ${answer%%$'\n'*}"
    fi
    ((SECONDS - started + pause < retry_for)) || fail 1 "$trouble"
    say "$trouble; trying again"
    sleep "$pause"
    pause=$((pause < 16 ? pause * 2 : 30))
  done
}

refuse() { # STATUS: end with the exit code that the server's refusal stands for
  local code detail exit_code=1
  code=$(jq -r '.code? // empty' 2>/dev/null <<<"$answer" || true)
  detail=$(jq -r '.detail? // empty' 2>/dev/null <<<"$answer" || true)
  case "$1/$code" in
    */InvalidRequest) exit_code=2 ;;
    */StagingNotReady) exit_code=3 ;;
    401/* | 403/*) exit_code=4 ;;
    409/* | 412/*) exit_code=6 ;;
  esac
  fail "$exit_code" "${detail:-the server answered with status $1}${code:+ ($code)}"
}

show() { json "$answer"; }
field() { jq -r "$1 // empty" <<<"$answer"; }

same() { [[ "${1,,}" == "${2,,}" ]]; } # storage ignores the case of task hub names

warn() { # what the server says that its verdict in `answer` does not cover
  local warning
  while IFS= read -r warning; do
    say "warning: $warning"
  done < <(jq --raw-output '.warnings[]? | "\(.code): \(.message)" | gsub("[\r\n]"; " ")' <<<"$answer")
}

status() {
  local waits=${SAFE_DEPLOY_WAIT:-} deadline=$((SECONDS + ${SAFE_DEPLOY_TIMEOUT:-3600})) wait=0 left told=''
  while true; do
    ask GET "/apps/$app/staging?slot=$slot&wait=$wait&verify=${SAFE_DEPLOY_VERIFY:-cached}"
    [[ -n "$told" ]] || warn
    [[ $(field .ready) != true ]] || break
    if [[ "$(field '[.reasons[].code]')" != "$told" ]]; then
      told=$(field '[.reasons[].code]')
      say "not ready: $(field '[.reasons[].message] | join("; ")')"
    fi
    left=$((deadline - SECONDS))
    if [[ "${waits,,}" != true ]]; then
      show
      exit 3
    elif ((left <= 0)); then
      show
      fail 5 "not ready within ${SAFE_DEPLOY_TIMEOUT:-3600} seconds"
    fi
    # From the second time on the server holds the question for so long, and answers as soon as the slot is ready.
    wait=$((left < 60 ? left : 60))
    sleep 1
  done
  show
}

stage() {
  local hub
  hub=$(task_hub)
  ask POST "/apps/$app/staging" "$(jq -n --arg hub "$hub" --arg slot "$slot" \
    --arg version "${SAFE_DEPLOY_VERSION:-}" --arg reason "${SAFE_DEPLOY_REASON:-}" \
    --arg force "${SAFE_DEPLOY_FORCE:-}" --arg take_over "${SAFE_DEPLOY_TAKE_OVER:-}" '
      {taskHub: $hub, slot: $slot}
      + if $version == "" then {} else {version: $version} end
      + if $reason == "" then {} else {reason: $reason} end
      + if ($force | ascii_downcase) == "true" then {force: true} else {} end
      + if ($take_over | ascii_downcase) == "true" then {takeOver: true} else {} end')"
  show
}

post_swap() { # HUB OUTCOME ROLLBACK
  ask POST "/apps/$app/swap" "$(jq -n --arg hub "$1" --arg slot "$slot" --arg outcome "$2" --argjson rollback "$3" \
    '{taskHub: $hub, slot: $slot, outcome: $outcome, rollback: $rollback}')"
}

held() { # SLOT: the task hub that it holds, nothing if none, from the app in `answer`
  jq -r --arg slot "${1,,}" \
    'first(.slots | to_entries[] | select((.key | ascii_downcase) == $slot) | .value.taskHub) // empty' <<<"$answer"
}

# SLOT HUB: what a person types after a look at the platform.
to_type() {
  local words
  printf -v words 'SAFE_DEPLOY_SERVER=%q SAFE_DEPLOY_APP=%s' "$server" "$app"
  same "$1" staging || printf -v words '%s SAFE_DEPLOY_SLOT=%q' "$words" "$1"
  printf -v words '%s SAFE_DEPLOY_TASK_HUB=%q %q swap --outcome' "$words" "$2" "$0"
  printf '%s' "Look which task hub production carries, when the platform has come to rest. If it is $2, type: $words done. If not, type: $words failed"
}

no_other_swap() { # ends the script if a swap is pending in `answer`
  local hub
  hub=$(field .pendingSwap.taskHub)
  # Whoever began it was cut off, and may or may not have swapped. To swap again could undo it, so nobody guesses.
  [[ -z "$hub" ]] || fail 6 "$(field .pendingSwap.by) began to swap $hub into production at $(field .pendingSwap.startedAt), and nobody has said how that ended. $(to_type "$(field .pendingSwap.slot)" "$hub")"
}

promote() { # HUB ROLLBACK: by `command`, or as `outcome` says
  if [[ "$outcome" == Pending ]]; then
    ask GET "/apps/$app"
    no_other_swap
    post_swap "$1" Pending "$2"
    same "$(field .pendingSwap.taskHub)" "$1" || fail 6 "$1 is in production already, and no swap was begun: do not swap the slots, it would bring the other one back"
  elif [[ -n "$outcome" ]]; then
    post_swap "$1" "$outcome" "$2"
  else
    ask GET "/apps/$app"
    no_other_swap
    if same "$(held production)" "$1"; then
      say "$1 is in production already"
    else
      carry_out "$1" "$2"
    fi
  fi
  show
}

carry_out() { # HUB ROLLBACK: the record first, as pending, then the platform, then how it went
  local hub=$1 rollback=$2 code=0
  # bash runs a trap when the command has ended, so the command is never left alone.
  trap 'interrupted=yes' INT TERM HUP
  post_swap "$hub" Pending "$rollback"
  same "$(field .pendingSwap.taskHub)" "$hub" || fail 6 "somebody else has swapped $hub meanwhile; the command was not run"
  if [[ -n "${interrupted:-}" ]]; then
    post_swap "$hub" Failed "$rollback"
    fail 1 'interrupted before the command was run; nothing has changed'
  fi
  env -u SAFE_DEPLOY_KEY "SAFE_DEPLOY_TASK_HUB=$hub" "${command[@]}" >&2 || code=$?
  hint=". The command ended with exit code $code${interrupted:+, when it was interrupted}. The swap of $hub stays pending, and nobody can stage. $(to_type "$slot" "$hub")"
  # The platform goes on with a swap that it has accepted, whatever becomes of the command that asked for it.
  ((code == 0)) || fail 6 'nobody here can tell whether the slots are swapped'
  post_swap "$hub" Done "$rollback"
}

swap() {
  local hub
  outcome_or_command "$@"
  hub=$(task_hub)
  promote "$hub" false
}

rollback() {
  local asked='' hub production
  outcome_or_command "$@"
  [[ -z "${SAFE_DEPLOY_TASK_HUB:-}" ]] || asked=$(task_hub)
  ask GET "/apps/$app"
  production=$(held production)
  hub=${asked:-$(held "$slot")}
  if [[ -n "$outcome" && $(field .pendingSwap.rollback) == true ]]; then
    hub=${asked:-$production} # where the record has it while the swap is pending
  else
    no_other_swap
    if came_back "$production"; then
      hub=${asked:-$production} # to roll back twice must not roll forward again
    elif same "$asked" "$production"; then
      fail 6 "$asked is in production, and no rollback brought it there. Without SAFE_DEPLOY_TASK_HUB the slot's task hub comes back"
    fi
    [[ -n "$hub" ]] || fail 6 "slot $slot of app $app holds no task hub: there is nothing to roll back to"
  fi
  promote "$hub" true
}

came_back() { # HUB: whether the newest swap with this slot that came about was a rollback to it
  local token='' last
  while true; do
    ask GET "/apps/$app/history?top=200${token:+&continuationToken=$token}"
    last=$(jq -c --arg slot "${slot,,}" 'first(.history[] | select(.operation == "PostSwap") | .details
      | select((.outcome // "Done") == "Done" and (.slot // "" | ascii_downcase) == $slot)) // empty' <<<"$answer")
    token=$(jq -r '.continuationToken // "" | @uri' <<<"$answer")
    [[ -z "$last" && -n "$token" ]] || break
  done
  [[ -n "$last" && "$(jq .rollback <<<"$last")" == true ]] && same "$(jq -r .production <<<"$last")" "$1"
}

cleanup() {
  ask POST "/apps/$app/cleanup" "$(jq -n --arg dry "${SAFE_DEPLOY_DRY_RUN:-}" --arg delete "${SAFE_DEPLOY_DELETE_TASK_HUBS:-}" \
    '{dryRun: ($dry | ascii_downcase == "true"), deleteTaskHubs: ($delete | ascii_downcase == "true")}')"
  show
}

# -- COMMAND..., or --outcome WORD: leaves the one in `command`, the other, as the server has it, in `outcome`.
outcome_or_command() {
  outcome='' command=()
  case "$*" in
    '--outcome pending') outcome=Pending ;;
    '--outcome done') outcome=Done ;;
    '--outcome failed') outcome=Failed ;;
    '-- '?*)
      command=("${@:2}")
      # Before anything is on record.
      [[ -n "$(type -P -- "${command[0]}")" ]] || fail 2 "there is no program ${command[0]}"
      ;;
    *) fail 2 'give the command that swaps on the platform, after --, or --outcome with pending, done or failed' ;;
  esac
}

task_hub() {
  local hub=${SAFE_DEPLOY_TASK_HUB:-}
  [[ "$hub" =~ ^[A-Za-z][A-Za-z0-9]{2,44}$ ]] ||
    fail 2 'SAFE_DEPLOY_TASK_HUB must be a task hub name: 3 to 45 letters and digits, a letter first'
  printf '%s' "$hub"
}

main() {
  local operation=${1:-}
  case "$operation" in
    status | stage | swap | rollback | cleanup) shift ;;
    -h | --help | help) usage && return ;;
    *) usage >&2 && exit 2 ;;
  esac
  server=${SAFE_DEPLOY_SERVER:-}
  server=${server%/}
  server=${server%/api}
  app=${SAFE_DEPLOY_APP:-}
  slot=${SAFE_DEPLOY_SLOT:-staging}
  retry_for=${SAFE_DEPLOY_RETRY_FOR:-120}
  run_url=${CI_PIPELINE_URL:-${BUILDKITE_BUILD_URL:-${BUILD_URL:-}}}
  [[ -z "${BITBUCKET_BUILD_NUMBER:-}" ]] ||
    run_url=https://bitbucket.org/${BITBUCKET_REPO_FULL_NAME:-}/pipelines/results/$BITBUCKET_BUILD_NUMBER
  run_url=${SAFE_DEPLOY_RUN_URL:-$run_url}
  actor=${SAFE_DEPLOY_ACTOR:-${GITLAB_USER_LOGIN:-${BUILDKITE_BUILD_CREATOR:-${BITBUCKET_STEP_TRIGGERER_UUID:-}}}}
  [[ "$server" == http://* || "$server" == https://* ]] || fail 2 'SAFE_DEPLOY_SERVER must be an http or https address'
  [[ "$run_url$actor${SAFE_DEPLOY_KEY:-}" != *[$'\r\n']* ]] || fail 2 'run URL, actor and key must be single lines'
  # They become parts of an address.
  [[ "$app" =~ ^[A-Za-z0-9-]+$ ]] || fail 2 'SAFE_DEPLOY_APP must be the name of an app'
  [[ "$slot" =~ ^[A-Za-z0-9-]+$ ]] || fail 2 'SAFE_DEPLOY_SLOT must be the name of a slot'
  [[ "${SAFE_DEPLOY_VERIFY:-cached}" =~ ^(cached|fresh|none)$ ]] || fail 2 'SAFE_DEPLOY_VERIFY is cached, fresh or none'
  local seconds='^(0|[1-9][0-9]{0,8})$' # without a 0 before it, which would make it octal
  [[ "${SAFE_DEPLOY_TIMEOUT:-0}" =~ $seconds && "$retry_for" =~ $seconds ]] ||
    fail 2 'SAFE_DEPLOY_TIMEOUT and SAFE_DEPLOY_RETRY_FOR are whole seconds'
  "$operation" "$@"
}

main "$@"
