// A Node `ws` server that echoes, for the Autobahn cases, all of which it passes when
// asked directly. With --handshake-delay its 101 comes that many milliseconds late, and
// with --compress it agrees to permessage-deflate, with any parameters.

import { announce, parseArguments, WebSocketServer } from "./announce.mjs";

const { host, port, ...options } = parseArguments({
  "handshake-delay": { type: "string", default: "0" },
  compress: { type: "boolean", default: false },
});
const delay = Number(options["handshake-delay"]);

const server = new WebSocketServer({
  host,
  port,
  maxPayload: 0, // no limit
  perMessageDeflate: options.compress,
  verifyClient: (_, accept) => setTimeout(accept, delay, true),
});
announce(server);
server.on("connection", (socket) => {
  // A protocol violation is what the cases provoke: ws answers it with a close frame.
  socket.on("error", () => {});
  socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
});
