#!/usr/bin/env bash
# Deploys with the state server from CI systems that have no template here. Requires bash, curl and jq.
# Works like `safe-deploy`, with the same variables and exit codes, but cannot query the platform.
usage() {
  cat <<'END'
usage: deploy.sh status | stage | cleanup
       deploy.sh swap | rollback  -- COMMAND...
       deploy.sh swap | rollback  --outcome pending|done|failed

  status    report whether the slot can be overwritten. With SAFE_DEPLOY_WAIT=true, wait until it can
  stage     reserve the slot for SAFE_DEPLOY_TASK_HUB
  swap      promote SAFE_DEPLOY_TASK_HUB to production: record the swap as pending, run COMMAND, which swaps the slots
            on the platform, and record the swap as done. If COMMAND fails or is interrupted, the platform may still
            swap. The swap then stays pending (exit code 6) until its outcome is reported with --outcome.
            --outcome replaces COMMAND if the slots are swapped without this script: pending before the swap; then done
            if production has the task hub, failed if it does not
  rollback  the same for the previous version, whose task hub is still in the slot
  cleanup   remove retired task hubs that have drained

Variables (an empty variable counts as not set):
  SAFE_DEPLOY_SERVER            the address of the server, required
  SAFE_DEPLOY_APP               the app, required
  SAFE_DEPLOY_KEY               the key, if the server requires one
  SAFE_DEPLOY_RUN_URL           the address of this run, the same in every step and attempt. Default: the address that
                                the CI system sets (GitLab, Buildkite, Bitbucket, Jenkins)
  SAFE_DEPLOY_ACTOR             the person who deploys, for the audit log. Default: the user that the CI system sets
  SAFE_DEPLOY_SLOT              the slot. Default: staging
  SAFE_DEPLOY_TASK_HUB          stage, swap: the task hub of this release. rollback: the task hub to return to. Default
                                for rollback: the task hub in the slot
  SAFE_DEPLOY_VERSION           stage: the version, for display
  SAFE_DEPLOY_FORCE             stage: true overwrites a slot that is not ready
  SAFE_DEPLOY_TAKE_OVER         stage: true takes over the deployment of a run that has ended
  SAFE_DEPLOY_REASON            stage: the reason for SAFE_DEPLOY_FORCE or SAFE_DEPLOY_TAKE_OVER
  SAFE_DEPLOY_WAIT              status: true waits until the slot is ready
  SAFE_DEPLOY_TIMEOUT           status: the longest wait, in seconds. Default: 3600
  SAFE_DEPLOY_VERIFY            status: cached, fresh or none. Default: cached
  SAFE_DEPLOY_DRY_RUN           cleanup: true reports what would be removed, and removes nothing
  SAFE_DEPLOY_DELETE_TASK_HUBS  cleanup: true also deletes the data of the task hubs
  SAFE_DEPLOY_RETRY_FOR         how long requests to an unavailable server are retried, in seconds. Default: 120

Exit codes: 0 done or ready, 1 failure, 2 usage, 3 not ready, 4 not allowed, 5 timed out, 6 conflict.
Prints the result to stdout as JSON and all messages to stderr.
END
}
set -euo pipefail

# Ids, names, versions and messages from the server are untrusted. Messages pass through escape_text, which keeps each on
# one line, and results pass through escape_json. Both show unusual characters as escapes such as \u001b, and break up
# text that a CI system would execute as a command. GitHub's runner executes a line that begins with `::` and contains a
# second `::`, or that contains `##[`. The agent of Azure Pipelines executes `##vso[`.
escape_text() { # TEXT
  jq -nr --arg text "$1" '
    def digits: [12, 8, 4, 0] as $shifts | "0123456789abcdef" as $hex | . as $code
      | $shifts | map(($code / pow(2; .) | floor) % 16) | map($hex[.:. + 1]) | add;
    def printable: (. >= 32 and . <= 126) or (. >= 161 and . <= 591 and . != 173) or (. >= 880 and . <= 1154)
      or (. >= 12353 and . <= 12543) or (. >= 19968 and . <= 40959) or (. >= 44032 and . <= 55203);
    $text[:10000] | explode | map(if printable then [.] | implode elif . < 65536 then "\\u" + digits
      else "\\u{" + (. / 65536 | floor | digits) + digits + "}" end)
    | add // "" | gsub("#(?=#)"; "# ")
    | gsub("(?<run>(?<![^ ])(?>:{2,})|(?>:{2,})(?=.*::)|:{4,})"; .run | explode | map([.] | implode) | join(" "))'
}
escape_json() { jq --ascii-output . <<<"$1" | sed -e 's/##/#\\u0023/g'; }

report() { printf 'deploy.sh: %s\n' "$(escape_text "$*")" >&2; }

failure_hint='' # appended to the message of every failure
condition=''    # the header If-Match of the next requests

fail() { # EXIT_CODE MESSAGE
  report "$2$failure_hint"
  exit "$1"
}

# A builtin writes the key into a pipe, so that `ps` does not show the key in a list of arguments.
request_headers() {
  printf 'Accept: application/json\nContent-Type: application/json\n'
  [[ -z "${SAFE_DEPLOY_KEY:-}" ]] || printf 'x-functions-key: %s\n' "$SAFE_DEPLOY_KEY"
  [[ -z "$actor" ]] || printf 'X-Actor: %s\n' "$actor"
  [[ -z "$run_url" ]] || printf 'X-Run-Url: %s\n' "$run_url"
  [[ -z "$condition" ]] || printf 'If-Match: %s\n' "$condition"
}

# METHOD PATH [BODY]: sends a request and stores the body of the response in `response`. Retries while the server is
# unavailable or busy, because every request of this script is idempotent. Exits if the server refuses the request.
request() {
  local method=$1 path=$2 body=${3:-} started=$SECONDS pause=1 http_status failure
  local curl=(curl --silent --show-error --connect-timeout 10 --max-time 200 --request "$method" --write-out '\n%{http_code}')
  [[ -z "$body" ]] || curl+=(--data-binary @-)
  while true; do
    if response=$("${curl[@]}" --header @<(request_headers) "$server/api$path" <<<"$body" 2>&1); then
      http_status=${response##*$'\n'}
      response=${response%$'\n'*}
      case "$http_status" in
        2??)
          jq -e 'type == "object"' >/dev/null 2>&1 <<<"$response" ||
            fail 1 "$server did not return a JSON object, so it is not a state server. Check SAFE_DEPLOY_SERVER"
          return
          ;;
        429 | 502 | 503 | 504) failure="the server returned status $http_status" ;;
        *) exit_refused "$http_status" ;;
      esac
    else
      failure="the server cannot be reached: ${response%%$'\n'*}"
    fi
    ((SECONDS - started + pause < retry_for)) ||
      fail 1 "$failure. Retries ended after $retry_for s (SAFE_DEPLOY_RETRY_FOR). Check the server and SAFE_DEPLOY_SERVER"
    report "$failure; trying again in $pause s"
    sleep "$pause"
    pause=$((pause < 16 ? pause * 2 : 30))
  done
}

exit_refused() { # HTTP_STATUS: exits with the code for the server's refusal in `response`
  local code detail exit_code=1
  code=$(jq -r '.code? // empty' 2>/dev/null <<<"$response" || true)
  detail=$(jq -r '.detail? // empty' 2>/dev/null <<<"$response" || true)
  [[ -z "$condition" || "$1" != 412 ]] ||
    fail 1 "the server has no app $app. Check SAFE_DEPLOY_APP. An administrator creates an app with safe-deploy register --create"
  case "$1/$code" in
    */InvalidRequest) exit_code=2 ;;
    */StagingNotReady) exit_code=3 ;;
    401/* | 403/*) exit_code=4 ;;
    409/* | 412/*) exit_code=6 ;;
  esac
  fail "$exit_code" "${detail:-the server returned status $1}${code:+ ($code)}"
}

print_response() { escape_json "$response"; }
response_field() { jq -r "$1 // empty" <<<"$response"; }

equals_ignoring_case() { [[ "${1,,}" == "${2,,}" ]]; } # Azure Storage ignores the case of task hub names

report_warnings() { # what the verdict in `response` does not cover
  local warning
  while IFS= read -r warning; do
    report "warning: $warning"
  done < <(jq --raw-output '.warnings[]? | "\(.code): \(.message)" | gsub("[\r\n]"; " ")' <<<"$response")
}

status() {
  local wait_requested=${SAFE_DEPLOY_WAIT:-} timeout=${SAFE_DEPLOY_TIMEOUT:-3600} wait=0 reported_codes='' deadline left
  deadline=$((SECONDS + timeout))
  while true; do
    request GET "/apps/$app/staging?slot=$slot&wait=$wait&verify=${SAFE_DEPLOY_VERIFY:-cached}"
    [[ -n "$reported_codes" ]] || report_warnings
    [[ $(response_field .ready) != true ]] || break
    if [[ "$(response_field '[.reasons[].code]')" != "$reported_codes" ]]; then
      reported_codes=$(response_field '[.reasons[].code]')
      report "slot $slot of app $app is not ready: $(response_field '[.reasons[].message] | join("; ")')"
    fi
    left=$((deadline - SECONDS))
    if [[ "${wait_requested,,}" != true ]]; then
      print_response
      exit 3
    elif ((left <= 0)); then
      print_response
      fail 5 "slot $slot of app $app was not ready within $timeout s (SAFE_DEPLOY_TIMEOUT). Resolve the reasons above, or set a longer timeout, and run deploy.sh status again"
    fi
    # From the second request on, the server delays its answer for up to this many seconds, until the slot is ready.
    wait=$((left < 60 ? left : 60))
    sleep 1
  done
  print_response
}

stage() {
  local task_hub
  task_hub=$(require_task_hub)
  condition='*' # without it, a mistyped name would create an app
  request POST "/apps/$app/staging" "$(jq -n --arg task_hub "$task_hub" --arg slot "$slot" \
    --arg version "${SAFE_DEPLOY_VERSION:-}" --arg reason "${SAFE_DEPLOY_REASON:-}" \
    --arg force "${SAFE_DEPLOY_FORCE:-}" --arg take_over "${SAFE_DEPLOY_TAKE_OVER:-}" '
      {taskHub: $task_hub, slot: $slot}
      + if $version == "" then {} else {version: $version} end
      + if $reason == "" then {} else {reason: $reason} end
      + if ($force | ascii_downcase) == "true" then {force: true} else {} end
      + if ($take_over | ascii_downcase) == "true" then {takeOver: true} else {} end')"
  condition=''
  print_response
}

post_swap() { # TASK_HUB OUTCOME ROLLBACK
  request POST "/apps/$app/swap" "$(jq -n --arg task_hub "$1" --arg slot "$slot" --arg outcome "$2" \
    --argjson rollback "$3" '{taskHub: $task_hub, slot: $slot, outcome: $outcome, rollback: $rollback}')"
}

task_hub_in() { # SLOT: prints its task hub, or nothing, from the app in `response`
  jq -r --arg slot "${1,,}" \
    'first(.slots | to_entries[] | select((.key | ascii_downcase) == $slot) | .value.taskHub) // empty' <<<"$response"
}

describe_next_step() { # SLOT TASK_HUB RUN_URL: prints how to report the outcome of the pending swap that RUN_URL began
  local report_command place=''
  printf -v report_command 'SAFE_DEPLOY_SERVER=%q SAFE_DEPLOY_APP=%s' "$server" "$app"
  equals_ignoring_case "$1" staging || printf -v report_command '%s SAFE_DEPLOY_SLOT=%q' "$report_command" "$1"
  # With the run, the command ends no swap of another run.
  if [[ -n "$3" ]]; then
    printf -v report_command '%s SAFE_DEPLOY_RUN_URL=%q' "$report_command" "$3"
  else
    place='. Run it in a shell outside CI, because the swap began without the address of a run' # CI sets one
  fi
  printf -v report_command '%s SAFE_DEPLOY_TASK_HUB=%q %q swap --outcome' "$report_command" "$2" "$0"
  printf '%s' "When no swap is in progress on the platform, look up the task hub of production there. If it is $2, run: $report_command done. If it is not, run: $report_command failed$place"
}

require_no_pending_swap() { # exits if a swap is pending in `response`
  local task_hub
  task_hub=$(response_field .pendingSwap.taskHub)
  # The interrupted run may or may not have swapped the slots. A second swap could undo the first.
  [[ -z "$task_hub" ]] || fail 6 "a swap of task hub $task_hub into production is pending: $(response_field .pendingSwap.by) started it at $(response_field .pendingSwap.startedAt) and has not reported its outcome. $(describe_next_step "$(response_field .pendingSwap.slot)" "$task_hub" "$(response_field .pendingSwap.runUrl)")"
}

promote() { # TASK_HUB ROLLBACK: runs `swap_command`, or reports `outcome`
  if [[ "$outcome" == Pending ]]; then
    request GET "/apps/$app"
    require_no_pending_swap
    post_swap "$1" Pending "$2"
    equals_ignoring_case "$(response_field .pendingSwap.taskHub)" "$1" ||
      fail 6 "task hub $1 is in production already, so no swap was recorded. Do not swap the slots: that would bring the other version back into production"
  elif [[ -n "$outcome" ]]; then
    request GET "/apps/$app"
    # A step that a CI system repeats means the swap of its own run, which has ended.
    [[ "$(response_field .pendingSwap.runUrl)" == "$run_url" ]] || require_no_pending_swap
    post_swap "$1" "$outcome" "$2"
  else
    request GET "/apps/$app"
    require_no_pending_swap
    if equals_ignoring_case "$(task_hub_in production)" "$1"; then
      report "task hub $1 is in production already; the command was not run"
    else
      run_swap_command "$1" "$2"
    fi
  fi
  print_response
}

run_swap_command() { # TASK_HUB ROLLBACK: records the swap as pending, swaps on the platform, and records it as done
  local task_hub=$1 rollback=$2 exit_code=0
  # bash runs a trap only after the current command has ended, so the script always waits for the swap command.
  trap 'interrupted=yes' INT TERM HUP
  post_swap "$task_hub" Pending "$rollback"
  equals_ignoring_case "$(response_field .pendingSwap.taskHub)" "$task_hub" ||
    fail 6 "another client has swapped task hub $task_hub into production in the meantime. The command was not run. Check which task hub production has on the platform"
  if [[ -n "${interrupted:-}" ]]; then
    post_swap "$task_hub" Failed "$rollback"
    fail 1 'interrupted before the command was run. The slots are unchanged. Run the same command again'
  fi
  env -u SAFE_DEPLOY_KEY "SAFE_DEPLOY_TASK_HUB=$task_hub" "${swap_command[@]}" >&2 || exit_code=$?
  failure_hint=". The command ended with exit code $exit_code${interrupted:+ after an interrupt}. The swap of task hub $task_hub stays pending, and no run can stage until its outcome is reported. $(describe_next_step "$slot" "$task_hub" "$run_url")"
  # The platform continues a swap that it has accepted, even if the command that requested the swap fails.
  ((exit_code == 0)) || fail 6 'the slots may or may not be swapped: this script cannot query the platform'
  post_swap "$task_hub" Done "$rollback"
}

swap() {
  local task_hub
  parse_swap_arguments "$@"
  task_hub=$(require_task_hub)
  promote "$task_hub" false
}

rollback() {
  local requested='' task_hub production
  parse_swap_arguments "$@"
  [[ -z "${SAFE_DEPLOY_TASK_HUB:-}" ]] || requested=$(require_task_hub)
  request GET "/apps/$app"
  production=$(task_hub_in production)
  task_hub=${requested:-$(task_hub_in "$slot")}
  if [[ -n "$outcome" && $(response_field .pendingSwap.rollback) == true ]]; then
    task_hub=${requested:-$production} # the server already shows the new task hub while the swap is pending
  else
    require_no_pending_swap
    if is_rolled_back_to "$production"; then
      task_hub=${requested:-$production} # a second rollback must not swap the newer version back in
    elif equals_ignoring_case "$requested" "$production"; then
      fail 6 "task hub $requested is in production already, and not because of a rollback. To roll back to the task hub in slot $slot, run the same command without SAFE_DEPLOY_TASK_HUB"
    fi
    [[ -n "$task_hub" ]] ||
      fail 6 "slot $slot of app $app has no task hub, so there is no version to roll back to. Stage and swap the version that you want in production"
  fi
  promote "$task_hub" true
}

is_rolled_back_to() { # TASK_HUB: whether the latest completed swap with this slot is a rollback to this task hub
  local token='' latest_swap
  while true; do
    request GET "/apps/$app/history?top=200${token:+&continuationToken=$token}"
    latest_swap=$(jq -c --arg slot "${slot,,}" 'first(.history[] | select(.operation == "PostSwap") | .details
      | select((.outcome // "Done") == "Done" and (.slot // "" | ascii_downcase) == $slot)) // empty' <<<"$response")
    token=$(jq -r '.continuationToken // "" | @uri' <<<"$response")
    [[ -z "$latest_swap" && -n "$token" ]] || break
  done
  [[ -n "$latest_swap" && "$(jq .rollback <<<"$latest_swap")" == true ]] &&
    equals_ignoring_case "$(jq -r .production <<<"$latest_swap")" "$1"
}

cleanup() {
  request POST "/apps/$app/cleanup" "$(jq -n --arg dry_run "${SAFE_DEPLOY_DRY_RUN:-}" \
    --arg delete "${SAFE_DEPLOY_DELETE_TASK_HUBS:-}" \
    '{dryRun: ($dry_run | ascii_downcase == "true"), deleteTaskHubs: ($delete | ascii_downcase == "true")}')"
  print_response
}

# -- COMMAND..., or --outcome OUTCOME: stores the command in `swap_command`, or the outcome, as the API spells it, in
# `outcome`.
parse_swap_arguments() {
  outcome='' swap_command=()
  case "$*" in
    '--outcome pending') outcome=Pending ;;
    '--outcome done') outcome=Done ;;
    '--outcome failed') outcome=Failed ;;
    '-- '?*)
      swap_command=("${@:2}")
      # Checked before the swap is recorded as pending.
      [[ -n "$(type -P -- "${swap_command[0]}")" ]] ||
        fail 2 "program ${swap_command[0]} was not found, so no swap was recorded. Correct the command after --"
      ;;
    *) fail 2 'expected either -- and the command that swaps the slots, or --outcome with pending, done or failed. Run deploy.sh --help' ;;
  esac
}

require_task_hub() {
  local task_hub=${SAFE_DEPLOY_TASK_HUB:-}
  [[ "$task_hub" =~ ^[A-Za-z][A-Za-z0-9]{2,44}$ ]] ||
    fail 2 'SAFE_DEPLOY_TASK_HUB must be a task hub name: 3 to 45 letters and digits, beginning with a letter'
  printf '%s' "$task_hub"
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
  [[ "$server" == http://* || "$server" == https://* ]] || fail 2 'SAFE_DEPLOY_SERVER must be an address that begins with http:// or https://'
  [[ "$run_url$actor${SAFE_DEPLOY_KEY:-}" != *[$'\r\n']* ]] || fail 2 'SAFE_DEPLOY_RUN_URL, SAFE_DEPLOY_ACTOR and SAFE_DEPLOY_KEY must not contain line breaks'
  # The names become parts of the request's address.
  [[ "$app" =~ ^[A-Za-z0-9-]+$ ]] || fail 2 'SAFE_DEPLOY_APP must be the name of an app: letters, digits and hyphens'
  [[ "$slot" =~ ^[A-Za-z0-9-]+$ ]] || fail 2 'SAFE_DEPLOY_SLOT must be the name of a slot: letters, digits and hyphens'
  [[ "${SAFE_DEPLOY_VERIFY:-cached}" =~ ^(cached|fresh|none)$ ]] || fail 2 'SAFE_DEPLOY_VERIFY must be cached, fresh or none'
  local seconds='^(0|[1-9][0-9]{0,8})$' # bash reads a number with a leading 0 as octal
  [[ "${SAFE_DEPLOY_TIMEOUT:-0}" =~ $seconds && "$retry_for" =~ $seconds ]] ||
    fail 2 'SAFE_DEPLOY_TIMEOUT and SAFE_DEPLOY_RETRY_FOR must be whole numbers of seconds, without a leading 0'
  "$operation" "$@"
}

main "$@"
