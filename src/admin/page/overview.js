// Everything that comes with an event.

// In the order of a session's life.
const PHASES = [
  ["Held", {
    connecting: "the client’s handshake is checked",
    accepted: "the client is in, the upstream is tried",
    reconnecting: "the upstream was lost, and is tried again",
    authenticated: "any 101 of the upstream; not ready",
    services_ready: "a step on the way to ready",
  }],
  ["Passed on", {
    processing_ready: "ready, what was held is delivered",
    degraded: "not ready in time, opened anyway",
    processing: "messages go straight through",
    idle: "nothing to pass on at the moment",
  }],
  ["Ending", {
    closing: "a closing handshake is under way",
    closed: "ended by a closing handshake",
    failed: "ended by an error",
  }],
];
const HAS_ENDED = ["closed", "failed"];
const PHASE_OF = Object.fromEntries(
  PHASES.flatMap(([phase, states]) => Object.keys(states).map((state) => [state, phase])));

const ACCOUNTS = {
  delivered: "sent to the upstream, which has sent something since",
  unconfirmed: "sent to the upstream, which has sent nothing since",
  held: "wait, or are on the way",
  shed: "dropped from a full queue for more important ones",
  expired: "were held longer than max_age",
  discarded: "their client or session ended before it was ready",
  unknown: "sent to an upstream that was lost before it sent anything",
};
const LOSSES = ["shed", "expired", "discarded", "unknown"];

const FAILURES = {
  unreachable: "connection refused, or the name is unknown",
  lost: "the connection ended during the handshake",
  silent: "no answer in time",
  unavailable: "500, 502, 503 or 504",
  refused: "another status: it does not want this WebSocket",
  broken: "its answer was not valid",
  tls: "TLS failed",
};

const charts = [
  new Chart("Messages from", [["client_messages", "clients"], ["upstream_messages", "upstream"]], rate),
  new Chart("Bytes from", [["client_bytes", "clients"], ["upstream_bytes", "upstream"]], bytes),
  new Chart("Attempts at the upstream", [["attempts", "all"], ["attempt_failures", "failed"]], rate),
];
byId("charts").append(...charts.map((chart) => chart.node));

const stateNodes = new Map();
for (const [phase, states] of PHASES) {
  const rows = Object.entries(states).map(([state, note]) => {
    const number = element("span");
    const fill = element("div");
    const kept = HAS_ENDED.includes(state) ? { "data-ended": "true" } : {};
    const link = element("a", { href: `#state=${state}`, "data-state": state, ...kept },
      element("span", { class: "name" }, state), number,
      element("span", { class: "note" }, note),
      element("div", { class: "bar" }, fill));
    stateNodes.set(state, { number, fill });
    byId("sessions-state").append(element("option", { value: state }, state));
    return element("li", {}, link);
  });
  byId("states").append(element("div", {}, element("h3", {}, phase), element("ul", {}, ...rows)));
}

function showOverview(now) {
  const uptime = now.uptime_s > 0 ? `up ${age(1000 * now.uptime_s)}` : "just started";
  setText(byId("about"), `${now.version}, ${uptime}`);
  const waiting = now.waiting_total;
  document.title = waiting > 0 ? `${count(waiting)} waiting – readygate` : "readygate";
  showNotices(now);
  showFigures(now);
  showWaiting(now);
  showStates(now.sessions);
  showReady(now.time_to_ready);
  showQueued(now.held);
  showCounts(now);
  showLimits(now);
  showRoutes(now.routes);
  for (const chart of charts) chart.add(now.time_unix_ms / 1000, now.rates);
}

function showNotices(now) {
  const notices = [];
  if (now.is_draining) {
    notices.push({ key: "drain", text: `Draining: new clients are to go elsewhere, ${plural(now.sessions.total, "session")} left. When the last one has ended, so does the process.` });
  }
  for (const { worker, has_answered } of now.workers) {
    if (!has_answered) notices.push({ key: worker, text: `Worker ${worker} does not answer; its numbers are old and its sessions are missing in lists.` });
  }
  keep(byId("notices"), notices, ({ key }) => key, () => {
    const node = element("p", { class: "notice" });
    node.update = ({ text }) => setText(node, text);
    return node;
  });
}

function figure(name, value, note, isLoss = false) {
  const node = byId(`figure-${name}`);
  setText(node, value);
  setAttribute(node, "class", isLoss ? "loss" : "");
  setText(byId(`figure-${name}-note`), note);
}

function showFigures(now) {
  const { sessions, held, time_to_ready: ready, ledger, totals, rates } = now;
  const longest = now.waiting[0]?.age_ms;
  figure("waiting", count(now.waiting_total), longest === undefined ? "" : `the longest for ${wait(longest)}`);
  figure("sessions", count(sessions.total), rates ? `${rate(rates.sessions_started)} new per second` : "");
  figure("held", count(held.messages), `${bytes(held.bytes)} in memory`);
  figure("ready", ready.count > 0 ? within(ready, 0.5) : "–", ready.count > 0 ? `95 % within ${within(ready, 0.95)}` : "none yet");
  const lost = totals.shed + totals.lost;
  figure("lost", count(lost), `of ${plural(ledger.accepted, "message")}`, lost > 0);
}

// The URL of a listener for clients; a wildcard address becomes the host of this page.
function clientUrl(address) {
  const here = location.hostname;
  return address.replace(/^http/, "ws").replace(/\/\/(0\.0\.0\.0|\[::\]):/, `//${here}:`);
}

function emptyWaiting(now) {
  if (now.waiting_total > 0) return "";
  if (now.sessions.total > 0) return "None: the upstream is ready for every session.";
  if (now.totals.sessions_started > 0) return "None, and there are no sessions at the moment.";
  const where = now.listen.map(clientUrl).join(" or ");
  return `No sessions yet: open a WebSocket to ${where} and it appears here.`;
}

function showWaiting(now) {
  const empty = emptyWaiting(now);
  setText(byId("waiting-empty"), empty);
  byId("waiting-empty").hidden = empty === "";
  byId("waiting").hidden = now.waiting_total === 0;
  byId("waiting-note").hidden = now.waiting_total <= now.waiting.length;
  keep(byId("waiting-rows"), now.waiting, ({ id }) => id, waitingRow);
}

function waitingRow(session) {
  const [node, [link, path, waits, queued, attempts, upstream]] = row([
    ["Session", "id"], ["Path", "path"], ["Waits", "wide"], ["Queued", "wide"], ["Attempts", "number"],
    ["Upstream", "path"],
  ]);
  link.append(sessionLink(session.id));
  showPath(path, session.path);
  const fill = element("div");
  const waited = element("span", { class: "now" });
  const deadline = element("span", { class: "note" });
  waits.append(element("div", { class: "wait" }, element("div", { class: "bar" }, fill), waited, deadline));
  const messages = element("span");
  const size = element("span", { class: "note" });
  queued.append(messages, " ", size);
  node.update = (it) => {
    setText(waited, wait(it.age_ms));
    setText(deadline, `of ${age(it.gate_timeout_ms)}`);
    fill.style.width = `${Math.min(100, (100 * it.age_ms) / it.gate_timeout_ms)}%`;
    setText(messages, byPriority(it.queue.by_priority) || (it.queue.bytes > 0 ? "part of a message" : "nothing queued"));
    setText(size, it.queue.bytes > 0 ? bytes(it.queue.bytes) : "");
    setText(attempts, count(it.attempts));
    const isConnected = it.connected_ms !== null && it.state !== "reconnecting";
    setText(upstream, isConnected ? "connected, not ready yet" : it.last_connect_error ?? "no answer yet");
  };
  return node;
}

function showStates({ total, by_state }) {
  for (const [state, { number, fill }] of stateNodes) {
    const some = by_state[state];
    setText(number, count(some));
    setAttribute(number, "class", some > 0 ? "some" : "none");
    fill.style.width = `${(100 * some) / Math.max(total, 1)}%`;
  }
}

function showReady(histogram) {
  const isEmpty = histogram.count === 0;
  byId("ready-empty").hidden = !isEmpty;
  byId("ready-bars").hidden = isEmpty;
  byId("ready-scale").hidden = isEmpty;
  if (isEmpty) return setText(byId("ready-note"), "");
  const mean = wait(Math.round((1000 * histogram.sum_s) / histogram.count));
  setText(byId("ready-note"), `${plural(histogram.count, "session")}: half within ${within(histogram, 0.5)}, 95 % within ${within(histogram, 0.95)}, mean ${mean}`);
  const buckets = shownBuckets(histogram);
  const most = Math.max(...buckets.map(({ number }) => number));
  const items = buckets.map((bucket) => ({ ...bucket, most }));
  keep(byId("ready-bars"), items, ({ le }) => le, bucketColumn);
}

function showQueued({ messages, bytes: size, by_priority }) {
  setText(byId("queue-note"), messages > 0 ? `${plural(messages, "message")}, ${bytes(size)} in memory` : "Nothing is held.");
  const items = PRIORITIES.map((name) => ({
    name, text: count(by_priority[name]), share: by_priority[name] / Math.max(messages, 1),
  }));
  keep(byId("queue-rows"), items, ({ name }) => name, barLine);
}

const accounts = (ledger) => Object.entries(ACCOUNTS).map(([name, note]) => (
  { name, note, value: ledger[name], isLoss: LOSSES.includes(name) }));

function failures(counts) {
  const names = new Set([...Object.keys(FAILURES), ...Object.keys(counts)]);
  return [...names].map((name) => ({ name, note: FAILURES[name], value: counts[name] ?? 0 }));
}

// A list of counts without those that are 0.
function showSome(id, counts, isLoss) {
  const items = Object.entries(counts).filter(([, value]) => value > 0);
  byId(`${id}-empty`).hidden = items.length > 0;
  const lines = items.map(([name, value]) => ({ name, value, isLoss }));
  keep(byId(`${id}-rows`), lines, ({ name }) => name, countLine);
}

function showCounts({ ledger, totals, attempt_failures, rejections, ended }) {
  const accepted = { name: "accepted", note: "came from clients", value: ledger.accepted };
  keep(byId("ledger-rows"), [accepted, ...accounts(ledger)], ({ name }) => name, countLine);
  setText(byId("attempts-note"), `${plural(totals.attempts, "attempt")} since the start, of which failed:`);
  keep(byId("attempts-rows"), failures(attempt_failures), ({ name }) => name, countLine);
  showSome("rejections", rejections, true);
  showSome("ended", ended, false);
}

// A line with the use of a limit; without a limit, only the use.
const used = (name, use, limit, format) => ({
  name,
  text: limit === null ? `${format(use)}, no limit` : `${format(use)} of ${format(limit)}`,
  share: limit === null ? null : use / Math.max(limit, 1),
});

// A line for a use that is known as a share only; `null`: there is no limit.
const usedShare = (name, share) => ({
  name, share, text: share === null ? "no limit" : `${(100 * share).toFixed(0)} % used`,
});

function showLimits(now) {
  const { connections, busiest_address: busiest, memory, files, held, held_requests } = now;
  const items = [
    used("Connections of clients", connections.open, connections.limit, count),
    busiest.connections
      ? used("Connections of the busiest address", busiest.connections.open, busiest.connections.limit, count)
      : usedShare("Connections of the busiest address", null),
    usedShare("New sessions", now.session_rate_used),
    usedShare("New sessions of the busiest address", busiest.session_rate_used),
    used("Bytes held", held.bytes, held.bytes_limit, bytes),
    usedShare("The fullest queue of a session", now.fullest_queue),
    used("HTTP requests held", held_requests.open, held_requests.limit, count),
  ];
  if (memory) items.push(used("Memory", memory.bytes, memory.bytes_limit, bytes));
  else if (now.resident_bytes !== null) items.push(used("Memory", now.resident_bytes, null, bytes));
  if (files) items.push(used("Files open", files.open, files.limit, count));
  keep(byId("limits-rows"), items, ({ name }) => name, barLine);
}

function showRoutes(routes) {
  byId("routes-empty").hidden = true;
  byId("routes").hidden = false;
  keep(byId("routes-rows"), routes, ({ route }) => route, ({ route }) => {
    const [node, [name, ...cells]] = row([
      ["Route", "path"], ["Sessions", "number"], ["Waiting", "number"], ["Messages held", "number"],
      ["Attempts failed", "number"], ["Ready after, mean", "number"], ["Breaker", "number"],
      ["Not delivered", "number"],
    ]);
    name.append(route);
    const values = cells.map((cell) => cell.appendChild(element("span")));
    node.update = (it) => {
      const mean = it.ready > 0 ? wait(Math.round((1000 * it.ready_sum_s) / it.ready)) : "–";
      const lost = it.shed + it.lost;
      const held = it.held_messages > 0 ? `${count(it.held_messages)} (${bytes(it.held_bytes)})` : "0";
      const texts = [count(it.sessions), count(it.waiting), held,
        `${count(it.attempt_failures)} of ${count(it.attempts)}`, mean, breaker(it.breaker), count(lost)];
      texts.forEach((text, index) => setText(values[index], text));
      setAttribute(values.at(-2), "class", it.breaker && it.breaker.state !== "closed" ? "loss" : "");
      setAttribute(values.at(-1), "class", lost > 0 ? "loss" : "");
    };
    return node;
  });
}

// The state of a route's breaker; a route without sessions may have none.
function breaker(it) {
  if (!it) return "–";
  if (it.state === "open") return it.probe_in_ms > 0 ? `open, probe in ${wait(it.probe_in_ms)}` : "open, probe is due";
  return it.state === "half_open" ? "half open, a few at a time" : "closed";
}
