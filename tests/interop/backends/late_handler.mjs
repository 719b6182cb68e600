// A Node `ws` server that completes the handshake and attaches its message handler
// 1 to 1.5 s later, as code does that awaits its database between `connection` and
// `on("message")`. An event without a handler is dropped, so what arrives before is
// lost. It then sends `ready` and echoes every message's id. With --compress it agrees to
// permessage-deflate, which ws servers do not by themselves.

import { announce, parseArguments, WebSocketServer } from "./announce.mjs";

const FASTEST_MS = 1000;
const SPREAD_MS = 500;

const { host, port, seed, compress } = parseArguments({
  seed: { type: "string", default: "1" },
  compress: { type: "boolean", default: false },
});
const random = mulberry32(Number(seed));

const server = new WebSocketServer({ host, port, perMessageDeflate: compress });
announce(server);
server.on("connection", (socket) => {
  setTimeout(() => attach(socket), FASTEST_MS + SPREAD_MS * random());
});

function attach(socket) {
  const received = [];
  socket.on("message", (data) => {
    const message = JSON.parse(data);
    if (message.type === "report") {
      socket.send(JSON.stringify({ type: "report", received }));
    } else {
      received.push(message.id);
      socket.send(JSON.stringify({ type: "echo", id: message.id }));
    }
  });
  socket.send(JSON.stringify({ type: "ready" }));
}

// A small generator with a seed, which Math.random does not take; values in [0, 1).
function mulberry32(state) {
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let bits = Math.imul(state ^ (state >>> 15), 1 | state);
    bits = (bits + Math.imul(bits ^ (bits >>> 7), 61 | bits)) ^ bits;
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  };
}
