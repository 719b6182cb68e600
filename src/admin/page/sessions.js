// The list of sessions, and one session with its trail. What is open is in the hash of the
// address: #state=accepted&sort=waiting&session=7

const MAX_ROWS = 25;

// The filters of the list.
const FILTERS = ["ended", "state", "sort"];

// Time from state to state, for the picture of a session's life.
const PHASE_CLASS = { Held: "phase-held", "Passed on": "phase-open", Ending: "phase-ending" };

const opened = {
  read: () => new URLSearchParams(location.hash.slice(1)),
  get: (name) => opened.read().get(name) ?? "",
  // Changes some of it; "" removes.
  set(changes) {
    const all = opened.read();
    for (const [name, value] of Object.entries(changes)) {
      if (value === "") all.delete(name);
      else all.set(name, value);
    }
    location.hash = all.toString();
  },
};

const list = { isSeen: false, isAsked: false };

// Fetches the list while it is visible.
async function refreshList() {
  if (!list.isSeen || list.isAsked || document.hidden) return;
  list.isAsked = true;
  try {
    const query = new URLSearchParams({ limit: MAX_ROWS });
    for (const name of FILTERS) if (opened.get(name)) query.set(name, opened.get(name));
    const answer = await fetch(`sessions?${query}`);
    if (!answer.ok) throw new Error((await answer.text()).trim());
    showList(await answer.json());
  } catch (error) {
    // Without a connection the events say so.
    if (isLive()) setText(byId("sessions-note"), error.message);
  } finally {
    list.isAsked = false;
  }
}

function showList({ total, matching, sessions }) {
  const what = total === matching ? plural(total, "session") : `${count(matching)} of ${plural(total, "session")}`;
  const order = opened.get("sort") === "waiting" ? "that wait the longest" : opened.get("ended") ? "that ended last" : "newest";
  setText(byId("sessions-note"), matching > sessions.length ? `${what}; the ${count(sessions.length)} ${order}` : what);
  byId("sessions").hidden = sessions.length === 0;
  byId("sessions-empty").hidden = sessions.length > 0;
  setText(byId("sessions-empty"), total > 0 ? "None like that." : opened.get("ended") ? "No session has ended yet." : "There are no sessions at the moment.");
  keep(byId("sessions-rows"), sessions, ({ id }) => id, listRow);
}

function listRow(session) {
  const [node, cells] = row([
    ["Session", "id"], ["State", "state"], ["Path", "path"], ["Client", "path"], ["Age", "number"],
    ["Ready", "number"], ["Queued", "number"], ["Accepted", "number"],
  ]);
  const [link, state, path, client, lived, ready, queued, accepted] = cells;
  link.append(sessionLink(session.id));
  showPath(path, session.path);
  client.append(session.client);
  node.update = (it) => {
    setText(state, it.end ? `${it.state}: ${it.end.reason}` : it.state);
    setText(lived, age(it.age_ms));
    setText(ready, wait(it.ready_ms));
    setText(queued, count(it.queue.messages));
    setText(accepted, count(it.accepted));
  };
  return node;
}

// The session in the dialog: its last known state, and whether that is final.
const session = { id: "", known: null, isOver: false, isAsked: false };

function openSession(id) {
  const dialog = byId("session");
  if (id === session.id) return;
  Object.assign(session, { id, known: null, isOver: false });
  if (id === "") return dialog.close();
  dialog.classList.remove("ended");
  byId("session-known").hidden = true;
  setText(byId("session-heading"), `Session ${id}`);
  setText(byId("session-path"), "");
  setText(byId("session-says"), "");
  if (!dialog.open) dialog.showModal();
  byId("session-heading").focus();
  dialog.scrollTop = 0;
  refreshSession();
}

async function refreshSession() {
  const { id } = session;
  if (id === "" || session.isOver || session.isAsked) return;
  session.isAsked = true;
  try {
    const answer = await fetch(`sessions/${encodeURIComponent(id)}`);
    const body = answer.ok ? await answer.json() : (await answer.text()).trim();
    if (id !== session.id) return;
    if (answer.ok) {
      showSession((session.known = body));
      if (body.end) finishSession();
    } else if (answer.status === 404) endSession();
    else setText(byId("session-says"), body);
  } catch {
    // Without a connection the events say so.
  } finally {
    session.isAsked = false;
  }
  if (id !== session.id) refreshSession();
}

// Nothing more will happen to it.
function finishSession() {
  session.isOver = true;
  byId("session").classList.add("ended");
  announce(`Session ${session.id} has ended.`);
}

// The process does not list it any more: its last known state stays.
function endSession() {
  const { known } = session;
  finishSession();
  const says = known
    ? `This session has ended. Below is its last known state; how it ended is in the log, in the line “session ended” with client ${known.client}.`
    : `Session ${session.id} ended too long ago, or there never was one.`;
  setText(byId("session-says"), says);
}

// The present state in a sentence or two.
function explain(it) {
  if (it.end) {
    const codes = [["client", it.end.client_code], ["upstream", it.end.upstream_code]].filter(([, code]) => code !== null);
    const told = codes.map(([who, code]) => `the ${who} was told ${code}`).join(", ");
    return `Ended by the ${it.end.by} after ${wait(it.age_ms)}: ${it.end.detail}${told && `; ${told}`}.`;
  }
  if (PHASE_OF[it.state] === "Ending") return "It is ending: a closing handshake is under way.";
  if (it.ready_ms !== null) {
    const how = it.trail.some(({ state }) => state === "degraded") ? "Not ready in time, and opened anyway" : "Ready";
    const now = it.state === "idle" ? "Nothing goes through at the moment." : "Messages go straight through.";
    return `${how} after ${wait(it.ready_ms)}. ${now}`;
  }
  const left = it.gate_timeout_ms - it.age_ms;
  const end = it.on_timeout === "open" ? "the gate opens anyway" : "the client is closed with 1013";
  const deadline = left > 0 ? `In ${wait(left)} ${end}.` : "Its deadline is over.";
  if (it.connected_ms !== null && it.state !== "reconnecting") {
    return `Waits for the upstream’s ready message, ${wait(it.age_ms - it.connected_ms)} after it was connected. ${deadline}`;
  }
  const error = it.last_connect_error ? `; the last error: ${it.last_connect_error}` : "";
  return `Waits for an upstream that can be connected: ${plural(it.attempts, "attempt")}${error}. ${deadline}`;
}

function showSession(it) {
  byId("session-known").hidden = false;
  setText(byId("session-path"), it.path);
  setText(byId("session-says"), explain(it));
  showLife(it);
  const { queue } = it;
  const limits = [
    { name: "Messages", text: `${count(queue.messages)} of ${count(queue.messages_limit)}`, share: queue.messages / queue.messages_limit },
    { name: "Bytes", text: `${bytes(queue.bytes)} of ${bytes(queue.bytes_limit)}`, share: queue.bytes / queue.bytes_limit },
    { name: "By priority", text: byPriority(queue.by_priority) || (queue.bytes > 0 ? "part of a message" : "nothing is queued"), share: null },
  ];
  keep(byId("session-queue"), limits, ({ name }) => name, barLine);
  const accepted = { name: "accepted", value: it.ledger.accepted };
  const ledger = accounts(it.ledger).map(({ note, ...line }) => line);
  keep(byId("session-ledger"), [accepted, ...ledger], ({ name }) => name, countLine);
  const attempts = failures(it.failed_attempts).filter(({ value }) => value > 0);
  const all = { name: "all", value: it.attempts };
  keep(byId("session-attempts"), [all, ...attempts], ({ name }) => name, countLine);
  showFacts(it);
}

function showFacts(it) {
  const facts = [
    ["Client", it.client],
    ["Route", it.route],
    ["Began", new Date(it.started_unix_ms).toLocaleString()],
    [it.end ? "Lasted" : "Age", age(it.age_ms)],
    ...(it.end ? [["Ended", new Date(it.end.unix_ms).toLocaleString()]] : []),
    ["HTTP", it.http],
    ["Worker", String(it.worker)],
    ["Connected after", wait(it.connected_ms)],
    ["Ready after", wait(it.ready_ms)],
    ["Delivery took", it.flush_us === null ? "–" : `${(it.flush_us / 1000).toFixed(2)} ms`],
    ["From the client", bytes(it.traffic.client_bytes)],
    ["From the upstream", `${plural(it.traffic.upstream_messages, "message")}, ${bytes(it.traffic.upstream_bytes)}`],
    ["Last connect error", it.last_connect_error ?? "none"],
  ];
  const items = facts.flatMap(([name, value]) => [{ tag: "dt", key: name, text: name }, { tag: "dd", key: `${name}:`, text: value }]);
  keep(byId("session-facts"), items, ({ key }) => key, ({ tag }) => {
    const node = element(tag);
    node.update = ({ text }) => setText(node, text);
    return node;
  });
}

// The steps of a session with how long each lasted.
function stepsOf({ trail, age_ms }) {
  return trail.map((step, index) => {
    const end = trail[index + 1]?.after_ms ?? age_ms;
    return { ...step, index, lasted: end - step.after_ms, isLast: index === trail.length - 1, isFinal: HAS_ENDED.includes(step.state) };
  });
}

function showLife(it) {
  const steps = stepsOf(it);
  // While it waits all the time there is; then so much that the waiting is still to be seen.
  const isWaiting = it.ready_ms === null && !it.end;
  const last = steps.at(-1).after_ms;
  const horizon = isWaiting ? Math.max(it.gate_timeout_ms, it.age_ms) : Math.min(it.age_ms, Math.max(1.4 * last, 1000));
  const seen = steps.map((step) => ({ ...step, share: Math.max(0, Math.min(step.lasted, horizon - step.after_ms)) / horizon }));
  keep(byId("session-segments"), seen, ({ index }) => index, ({ state }) => {
    const node = element("div", { class: PHASE_CLASS[PHASE_OF[state]], title: state });
    node.update = ({ share }) => { node.style.width = `${100 * share}%`; };
    return node;
  });
  setText(byId("session-horizon"), isWaiting ? `${wait(horizon)}, the deadline` : it.age_ms > horizon ? `${wait(Math.round(horizon))}, and so on` : it.end ? "the end" : "now");
  const words = steps.map(({ state, lasted, isFinal }) => isFinal ? state : `${state} for ${wait(lasted)}`);
  setAttribute(byId("session-life"), "aria-label", words.join(", then "));
  keep(byId("session-trail"), steps, ({ index }) => index, trailLine);
  byId("session-omitted").hidden = it.trail_omitted === 0;
  setText(byId("session-omitted"), `${plural(it.trail_omitted, "step")} left out.`);
}

function trailLine({ state, reason, after_ms }) {
  const lasted = element("span", { class: "note lasted" });
  const what = element("span", { class: "what" }, element("span", { class: "name" }, state), element("span", { class: "note" }, reason));
  const node = element("li", {}, element("span", { class: "at" }, `+${(after_ms / 1000).toFixed(3)} s`), what, lasted);
  node.update = (step) => setText(lasted, step.isFinal ? "" : step.isLast ? `for ${wait(step.lasted)} so far` : `for ${wait(step.lasted)}`);
  return node;
}
