// node-media-server 4.4.3 ends when pictures arrive together with the answer to PLAY (its session has
// no broadcast yet). Loaded with `node -r`, this makes it lose that packet instead. A real
// installation has a supervisor.
process.on("uncaughtException", (error) => console.error("guard:", error && error.message));
