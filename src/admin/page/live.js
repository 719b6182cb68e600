// The connection and its loss, and the user's actions.

// Events come every second; without one for so long something is wrong.
const SILENCE_MILLIS = 5000;
const RETRY_MILLIS = 2000;

const live = { source: null, heard: 0, began: null, wasDraining: false };

const isLive = () => document.body.dataset.connection === "live";

// For screen readers: only what changes seldom.
function announce(text) {
  setText(byId("announcement"), text);
}

function setConnection(state, text) {
  const before = document.body.dataset.connection;
  setText(byId("connection-text"), text);
  if (before === state) return;
  document.body.dataset.connection = state;
  if (state === "lost") announce("Not connected. The numbers are old.");
  else if (before === "lost") announce("Connected again.");
}

function listen() {
  live.source?.close();
  live.source = new EventSource("events");
  live.source.onmessage = ({ data }) => hear(JSON.parse(data));
  live.source.onerror = () => lose();
}

function hear(now) {
  live.heard = Date.now();
  forgetOtherProcess(now);
  setConnection("live", "Live");
  if (now.is_draining && !live.wasDraining) announce("The proxy drains.");
  live.wasDraining = now.is_draining;
  showOverview(now);
  refreshSession();
}

// A restarted process numbers its sessions from 1 again: number 7 is another one.
function forgetOtherProcess({ time_unix_ms, uptime_s }) {
  const began = time_unix_ms / 1000 - uptime_s;
  const isOther = live.began !== null && Math.abs(began - live.began) > 3;
  live.began = began;
  if (!isOther) return;
  for (const chart of charts) chart.clear();
  if (session.id !== "" && !session.isOver) endSession();
}

function lose() {
  const since = live.heard ? `, numbers from ${age(Date.now() - live.heard)} ago` : "";
  const why = live.wasDraining ? "Not connected: the drained process has probably ended" : "Not connected, trying again";
  setConnection("lost", why + since);
}

// Browsers try again by themselves after some errors only, and notice no silence.
function watch() {
  const isSilent = Date.now() - live.heard > SILENCE_MILLIS;
  if (isLive() && isSilent || document.body.dataset.connection === "lost") lose();
  const isGone = live.source.readyState === EventSource.CLOSED;
  if (isGone || isLive() === false && isSilent && live.source.readyState === EventSource.OPEN) listen();
}

function followHash() {
  for (const name of FILTERS) {
    const select = byId(`sessions-${name}`);
    select.value = opened.get(name);
    if (select.selectedIndex < 0) select.selectedIndex = 0;
  }
  openSession(opened.get("session"));
  refreshList();
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-session], a[data-state], a[data-sort]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  if (link.dataset.session) return opened.set({ session: link.dataset.session });
  opened.set({ ended: "", state: "", sort: "", ...link.dataset });
  byId("sessions-heading").focus({ preventScroll: true });
  byId("sessions-section").scrollIntoView();
});
for (const name of FILTERS) {
  byId(`sessions-${name}`).addEventListener("change", ({ target }) => opened.set({ [name]: target.value }));
}
byId("session-close").addEventListener("click", () => byId("session").close());
byId("session").addEventListener("close", () => opened.set({ session: "" }));
// On the backdrop: everything inside has an element of its own.
byId("session").addEventListener("click", ({ target, offsetX }) => {
  if (target === byId("session") && offsetX < 0) byId("session").close();
});
addEventListener("hashchange", followHash);
new IntersectionObserver(([entry]) => {
  list.isSeen = entry.isIntersecting;
  refreshList();
}).observe(byId("sessions-section"));

listen();
setInterval(watch, 1000);
setInterval(refreshList, RETRY_MILLIS);
followHash();
