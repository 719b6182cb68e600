// Numbers, times and bytes as text. `null` is an event that has not happened.

const count = (number) => number.toLocaleString("en");

const plural = (number, one, many = one + "s") => `${count(number)} ${number === 1 ? one : many}`;

function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) {
    number /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || number >= 100 ? 0 : 1;
  return `${number.toFixed(digits)} ${units[unit]}`;
}

// A waiting time: tenths of a second below a minute.
function wait(millis) {
  if (millis === null) return "–";
  if (millis < 100) return `${millis} ms`;
  if (millis < 60_000) return `${(millis / 1000).toFixed(1)} s`;
  return age(millis);
}

// A time that has passed, in its two largest units.
function age(millis) {
  const seconds = Math.floor(millis / 1000);
  const units = [["d", 86_400], ["h", 3600], ["min", 60], ["s", 1]];
  const from = units.findIndex(([, size]) => seconds >= size);
  if (from < 0) return "0 s";
  let rest = seconds;
  const parts = units.slice(from, from + 2).map(([name, size]) => {
    const whole = Math.floor(rest / size);
    rest -= whole * size;
    return whole > 0 ? `${whole} ${name}` : "";
  });
  return parts.filter(Boolean).join(" ");
}

// Bounds of histograms.
function bound(seconds) {
  if (seconds === null) return "more";
  return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds} s`;
}

function rate(number) {
  return number >= 100 ? count(Math.round(number)) : number.toFixed(1);
}

const PRIORITIES = ["critical", "high", "normal", "low"];

// What is queued, the most important first.
function byPriority(queued) {
  const some = PRIORITIES.filter((name) => queued[name] > 0);
  return some.map((name) => `${count(queued[name])} ${name}`).join(", ");
}
