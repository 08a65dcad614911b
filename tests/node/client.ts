// A program on the types that openapi-typescript makes from the document.

import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

declare const process: { argv: string[] };

const [root, key] = process.argv.slice(2);
const client = createClient<paths>({
  baseUrl: root ?? "",
  headers: { Authorization: `Bearer ${key}` },
});

function expect(condition: boolean, what: unknown): asserts condition {
  if (!condition) throw new Error(JSON.stringify(what));
}

function found<T>(answer: { data?: T; error?: unknown; response: Response }): T {
  expect(answer.data !== undefined, answer.error ?? answer.response.status);
  return answer.data;
}

function emptied(answer: { error?: unknown; response: Response }) {
  expect(answer.response.status === 204, answer.error ?? answer.response.status);
}

const streamer = { path: { hostname: "s1.example.com" } };
const saved = found(
  await client.PUT("/streamers/{hostname}", {
    params: streamer,
    body: { role: "streamer", cluster_key: "secret1", api_url: "http://10.0.0.1:8080" },
  }),
);
expect(saved.hostname === "s1.example.com" && saved.role === "streamer", saved);

for (const number of [1, 2, 3]) {
  const stream = found(
    await client.PUT("/streams/{name}", {
      params: { path: { name: `sports/hd${number}` } },
      body: {
        title: `Sports ${number}`,
        inputs: [{ url: `udp://239.0.0.1:${1000 + number}` }],
        labels: { country: "rs" },
      },
    }),
  );
  expect(stream.name === `sports/hd${number}`, stream);
}
const items: components["schemas"]["central_stream_config_batch_item"][] = [
  { name: "sports/hd1", comment: "in a batch" },
  { name: "news", inputs: [{ url: "tshttp://10.0.0.9/news" }] },
];
emptied(await client.PUT("/streams/batch", { body: items }));
emptied(
  await client.POST("/streams/layouts", {
    body: { layouts: [{ name: "sports/hd1", ingest: "s1.example.com" }] },
  }),
);

const config = found(await client.GET("/streamers/{hostname}/streams", { params: streamer }));
const streams = "streams" in config ? config.streams : [];
expect(streams?.length === 1 && streams[0]?.name === "sports/hd1", config);

const names: string[] = [];
let cursor: string | undefined;
for (;;) {
  const page = found(
    await client.GET("/streams", {
      params: {
        query: {
          limit: 1,
          sort: ["-name"],
          filters: { "labels.country": "rs" },
          ...(cursor === undefined ? {} : { cursor }),
        },
      },
      // The members of `filters` are parameters of their own.
      querySerializer: ({ filters, sort, ...others }) => {
        const query = { ...others, ...filters, sort: sort?.join(",") };
        return new URLSearchParams(Object.entries(query).map(([k, v]) => [k, String(v)])).toString();
      },
    }),
  );
  names.push(...(page.streams ?? []).map((stream) => stream.name ?? ""));
  if (!page.next) break;
  cursor = page.next;
}
expect(names.join() === "sports/hd3,sports/hd2,sports/hd1", names);

const events = found(await client.GET("/events", { params: { query: { limit: 10 } } }));
expect((events.events ?? []).length > 4, events);

const refused = await client.GET("/streams/{name}", { params: { path: { name: "nobody" } } });
expect(refused.error?.errors?.[0]?.status === "404", refused);

for (const name of ["sports/hd1", "sports/hd2", "sports/hd3", "news"]) {
  emptied(await client.DELETE("/streams/{name}", { params: { path: { name } } }));
}
emptied(await client.DELETE("/streamers/{hostname}", { params: streamer }));
console.log("done");
