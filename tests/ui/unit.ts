// Unit tests of the interface: what needs no browser. Bundled, then run by `node --test`.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { confirmAges, forgetAge, isUnanswered, keepAge, keepAnswered } from './src/ages';
import { oldestAge, onUnanswered } from './src/ages';
import { pauseAfter } from './src/back_off';
import { queriesOf, targetsOf } from './src/changes';
import { configOf, differencesOf, patched } from './src/comparison';
import { eventsQuery, fieldOf, fits, fromField } from './src/event_filter';
import { labelScore, placesOf } from './src/explained';
import { streamsQuery } from './src/filters';
import { folded } from './src/folding';
import * as f from './src/format';
import { exact, parse, streamPath, url } from './src/json';
import { recentMoves } from './src/layouter_moves';
import { pathOf } from './src/line_path';
import { LogPosition } from './src/log_position';
import type { EventRecord, ExplainNode, Maintenance, Session } from './src/model';
import { oneAtATime } from './src/one_at_a_time';
import { permittedScreens } from './src/permitted';
import { hashOf, readRoute } from './src/router';
import { secretOf, withSecret } from './src/secret_change';
import { withoutSecrets } from './src/secrets';
import { changeOf, secretValue, settingsOf, typedValue } from './src/settings';
import {
  fullest,
  groupsOf,
  leftOf,
  rowOf,
  stageOf,
  streamersQuery,
} from './src/streamer_rows';
import {
  chosenLocale,
  LANGUAGES,
  piecesOf,
  textOf,
  type Forms,
  type LanguageFile,
  type Texts,
} from './src/language';
import { en } from './src/languages/en';
import pseudo from './src/languages/en-XA';
import { code, locale, t } from './src/text';
import { faultsOf } from './language_faults';
import { checkedQuestion, draftOf, isComplete, largestFirst, questionOf } from './src/whatif';

test('integers of 64 bits are kept as text', () => {
  const kept = (source: string) => exact('id', Number(source), { source });
  assert.equal(kept('9007199254740993'), '9007199254740993');
  assert.equal(kept('-9223372036854775808'), '-9223372036854775808');
  assert.equal(kept('9007199254740991'), 9007199254740991);
  assert.equal(kept('1e3'), 1000);
  assert.equal(kept('1.5'), 1.5);
  assert.equal(exact('name', 'text'), 'text');
  assert.deepEqual(parse('{"n":42,"list":[null,"a"]}'), { n: 42, list: [null, 'a'] });
  assert.equal(parse(''), null);
});

test('addresses leave out what is empty and escape the rest', () => {
  assert.equal(url('/streams'), '/streams');
  const query = { q: 'a b&c', cursor: '', sort: undefined, limit: 0 };
  assert.equal(url('/streams', query), '/streams?q=a%20b%26c&limit=0');
  assert.equal(streamPath('cam/a b'), '/streams/cam%2Fa%20b');
});

test('a route survives its hash', () => {
  const name = 'tv/ä ö?#%/%2F';
  const route = readRoute(hashOf('streams', [name], { q: 'a=b&c', sort: '' }));
  assert.deepEqual(route, { screen: 'streams', rest: [name], query: { q: 'a=b&c' } });
  assert.deepEqual(readRoute(''), { screen: '', rest: [], query: {} });
  assert.deepEqual(readRoute('#/streams/%E0%A4%A').rest, ['%E0%A4%A']);
});

test('a line shows half an hour and has gaps where nothing is known', () => {
  const minute = 60_000;
  const at = (n: number) => 1_795_888_320_000 + n * minute;
  const numbers = [9, 90, 0, null, 60, null, null, 30];
  const table = {
    fields: ['at', 'other', 'cpu'],
    points: numbers.map((n, row) => [at(row === 0 ? 0 : row + 24), 5, n]),
  };
  // The first row is older than half an hour before the last one; 60 alone is a dot.
  const path = pathOf(table, 'cpu');
  assert.equal(path, 'M80.0 1.0h0L83.3 23.0M90.0 8.3h0M100.0 15.7h0');
  assert.equal(pathOf(table, 'cpu', 45), 'M80.0 1.0h0L83.3 23.0M90.0 1.0h0M100.0 8.3h0');
  const flat = { fields: ['at', 'cpu'], points: [[at(0), 0]] };
  assert.equal(pathOf(flat, 'cpu'), 'M100.0 23.0h0', 'nothing is no number to divide by');
  assert.equal(pathOf(flat, 'at'), '');
  assert.equal(pathOf(flat, 'memory'), '');
  assert.equal(pathOf({ fields: ['at', 'cpu'], points: [] }, 'cpu'), '');
});

test('numbers are written in the unit that fits', () => {
  assert.equal(f.rate(999), '999 kbit/s');
  assert.equal(f.rate(3900), '3.9 Mbit/s');
  assert.equal(f.rate(3_200_000), '3.2 Gbit/s');
  assert.equal(f.rate(320_400_000), '320 Gbit/s');
  assert.equal(f.rate(1_234_000_000), '1.23 Tbit/s');
  assert.equal(f.rate(undefined), '–');
  assert.equal(f.count(100_003), '100,003');
  assert.equal(f.short(12_345), '12.3 k');
  assert.equal(f.percent(49.6), '50 %');
  assert.equal(f.bytes(999), '999 B');
  assert.equal(f.bytes(12_345), '12.3 kB');
  assert.equal(f.bytes(4_000_000_000), '4.0 GB');
  assert.equal(f.duration(93_784), '1 d 2 h');
  assert.equal(f.duration(61), '1 min 1 s');
});

test('times name their zone', () => {
  const at = Date.UTC(2026, 10, 28, 18, 34, 27);
  f.zone.utc = true;
  assert.equal(f.time(at), '2026-11-28 18:34:27Z');
  assert.equal(f.clock(at), '18:34:27');
  assert.match(f.times(at), /2026-11-28T18:34:27\.000Z$/);
  assert.equal(f.ago(at, at + 2000), 'now');
  assert.match(f.ago(at, at + 7 * 60_000), /7 min/);
});

test('filters of the address become parameters of the API', () => {
  const { select: _select, ...query } = streamsQuery({
    q: 'berlin',
    health: 'degradated',
    status: 'none',
    enabled: 'no',
    placed: 'no',
    label: 'required.site=fra=1',
    streamer: 'edge-1',
  });
  assert.deepEqual(query, {
    q: 'berlin',
    health: 'degradated',
    sort: undefined,
    'layout.ingest': 'edge-1',
    'stats.status_is': 'null',
    'labels.required.site': 'fra=1',
    disabled: 'true',
    placed: 'false',
  });
  assert.equal(streamsQuery({ enabled: 'yes' }).disabled_ne, 'true');
  assert.equal(streamsQuery({ placed: 'yes' }).placed, 'true');
  assert.equal(streamsQuery({ label: 'site' })['labels.site_is_not'], 'null');
});

test('an explanation names candidates, counts the rest, and has obstacles by reason', () => {
  const node = (hostname: string, more: Partial<ExplainNode>): ExplainNode => ({
    hostname,
    role: 'ingest',
    current: false,
    node_decision: true,
    reasons: [],
    load_percent: 0,
    ...more,
  });
  const group = (nodes: number, reasons: string[], role = 'ingest') => ({
    hostnames: ['a'],
    nodes,
    reasons,
    role,
  });
  const { candidates, more, obstacles } = placesOf({
    summary: '',
    nodes: [
      node('here', { current: true, node_decision: false, reasons: ['node_offline'] }),
      node('a', {}),
      node('copies', { role: 'dvr_backup' }),
    ],
    groups: [group(90, ['node_offline']), group(7, []), group(50, ['node_role'], 'dvr_backup')],
  });
  assert.deepEqual(candidates.map(({ hostname }) => hostname), ['a']);
  assert.equal(more, 6);
  assert.deepEqual(obstacles, [group(90, ['node_offline'])]);
  // A label counts 1000, and an empty streamer as much.
  for (const [score, load, labels] of [[1000, 0, 0], [3000, 0, 2], [2375, 62, 2], [2000, 130, 2]]) {
    assert.equal(labelScore(node('a', { score, load_percent: load })), labels, `${score} ${load}`);
  }
  assert.equal(labelScore(node('a', {})), 0);
});

test('picked streams are as few filters as addresses have room for', () => {
  assert.deepEqual(queriesOf(['a', 'b/c']), [{ name: 'a,b/c' }]);
  const names = Array.from({ length: 300 }, (_, n) => `tv/ä/${'x'.repeat(n)}`);
  const queries = queriesOf(names);
  assert.deepEqual(queries.flatMap(({ name }) => name?.split(',')), names);
  const lengths = queries.map((query) => url('/streams/batch_by_filter', query).length);
  assert.ok(lengths.every((length) => length < 8000), `${lengths}`);
  assert.ok(lengths.slice(0, -1).every((length) => length > 5000), `${lengths}`);
  const longest = 'ä'.repeat(256);
  assert.equal(queriesOf([longest, longest, longest, longest, longest]).length, 2);
});

const event = (over: Partial<EventRecord>): EventRecord => ({
  event_id: 1,
  event: 'layouter_processing_result',
  utc_ms: 0,
  ...over,
});

test('events are filtered by kind, user, entity and time, also new ones', () => {
  const from = '2026-11-28T18:34:00.000Z';
  const ms = Date.parse(from);
  const filter = { kind: 'api_call', user: 'anna', entity: 'tv/a', from };
  assert.deepEqual(eventsQuery(filter), {
    event: 'api_call',
    user: 'anna,api_token:anna',
    entity_id: 'tv/a',
    utc_ms_gte: ms,
  });
  assert.equal(eventsQuery({ user: 'ldap:anna' }).user, 'ldap:anna');
  assert.equal(eventsQuery({ from: String(ms) }).utc_ms_gte, ms);
  assert.equal(eventsQuery({ from: 'yesterday' }).utc_ms_gte, 'yesterday', 'for the server');
  const mine = event({ event: 'api_call', user: 'api_token:anna', entity_id: 'tv/a', utc_ms: ms });
  assert.ok(fits(filter, mine));
  assert.ok(fits({}, mine));
  for (const other of [{ event: 'x' }, { user: 'bob' }, { entity_id: 'b' }, { utc_ms: ms - 1 }]) {
    assert.ok(!fits(filter, { ...mine, ...other }), JSON.stringify(other));
  }
  assert.equal(fieldOf(from, true), '2026-11-28T18:34');
  assert.equal(fromField('2026-11-28T18:34', true), from);
  assert.equal(fromField(fieldOf(from, false), false), from, 'in the zone of the browser');
  for (const text of ['', 'yesterday', '9'.repeat(30)]) assert.equal(fieldOf(text, false), '');
  for (const text of ['', '275760-99-99T00:00']) assert.equal(fromField(text, true), '');
});

test('runs of the layouter that follow each other are one line', () => {
  const lines = folded([
    event({ relayouts_count: 2, relayouts_why: { restore: 2 } }),
    event({ relayouts_count: 3, relayouts_why: { restore: 1, rebalance: 2 } }),
    event({ event: 'api_call' }),
    event({ event: 'api_call' }),
  ]);
  assert.equal(lines.length, 3);
  assert.equal(lines[0]?.runs, 2);
  assert.equal(lines[0]?.relayouts_count, 5);
  assert.deepEqual(lines[0]?.relayouts_why, { restore: 3, rebalance: 2 });
});

test('streamers that change alike within a minute are one line', () => {
  const down = (id: string, utc_ms: number) =>
    event({ event: 'layouter_streamer_state', state: 'down', entity_id: id, utc_ms });
  const lines = folded([down('a', 0), down('b', 59_000), down('c', 200_000)]);
  assert.deepEqual(
    lines.map((line) => line.hosts),
    [['a', 'b'], ['c']],
  );
});

test('filters of streamers become parameters of the API', () => {
  const { select, ...query } = streamersQuery({
    q: 'fra',
    label: 'site=fra',
    state: 'held',
    health: 'outage',
    sort: '-errors',
  });
  assert.deepEqual(query, {
    q: 'fra',
    'labels.site': 'fra',
    'state.code': 'probation',
    health: 'outage',
    sort: '-streams.outage',
  });
  assert.ok(select?.split(',').includes('streams.outage'));
  // What the server does not know, it refuses in its own words; what is no column is no order.
  const unknown = streamersQuery({ state: 'gone', sort: 'gone' });
  assert.deepEqual([unknown['state.code'], unknown.sort], ['gone', '']);
  const grid = { view: 'grid', group: 'site' };
  assert.equal(streamersQuery({ ...grid, sort: 'cpu' }).sort, 'labels.site,stats.cpu_usage');
  assert.equal(streamersQuery({ group: 'site' }).sort, '', 'a table has no groups');
});

test('a row of a streamer has its fullest partition, and groups are in the order of the list', () => {
  assert.equal(fullest([{ usage: 3 }, {}, { usage: 9 }]), 9);
  assert.equal(fullest(undefined), undefined);
  const rows = [
    rowOf({ hostname: 'a' }),
    rowOf({ hostname: 'b', labels: { site: 'fra' }, stats: { partitions: [{ usage: 7 }] } }),
    rowOf({ hostname: 'c', labels: { site: 'fra' } }),
  ];
  assert.equal(rows[1]?.disk, 7);
  // One that is not read any more is left out.
  const shown = { length: 4, row: (index: number) => rows[index] };
  const names = groupsOf(shown, 'site').map(([name, of]) => [name, of.map((it) => it.hostname)]);
  assert.deepEqual(names, [['–', ['a']], ['fra', ['b', 'c']]]);
  assert.equal(groupsOf(shown, '').length, 1);
});

test('secrets of a configuration are not kept', () => {
  const streamer = {
    hostname: 'edge-1',
    cluster_key: 's3cret',
    api_url: 'http://root:s3cret@edge-1:8080/x?a=1&token=s3cret',
    play_urls: ['rtsp://s3cret@edge-1/', 'http://edge-1/@a'],
    config: { cluster_key: 's3cret', http_proxies: [{ upstream: '//u:s3c@ret@h' }] },
    labels: { key: 'a//b@c' },
    state: { name: 'up', maintenance: { reason: 'http://wiki/?page=1' } },
  };
  const kept = withoutSecrets(streamer) as typeof streamer;
  assert.doesNotMatch(JSON.stringify(kept), /s3c|ret"/);
  assert.deepEqual(kept.labels, streamer.labels);
  assert.deepEqual(kept.state, streamer.state);
  assert.equal(kept.api_url, 'http://***@edge-1:8080/x?***');
  assert.deepEqual(kept.play_urls, ['rtsp://***@edge-1/', 'http://edge-1/@a']);
  assert.equal(streamer.cluster_key, 's3cret', 'the answer itself stays');
});

test('a drain shows how far it is', () => {
  const drain: Maintenance = { mode: 'drain', reason: '', since: 1, pace: 200 };
  assert.deepEqual([stageOf(drain), leftOf(drain)], ['draining', null]);
  const begun = { ...drain, ingests: 3, backups: 2, inferences: 0 };
  assert.deepEqual([stageOf(begun), leftOf(begun)], ['draining', 5]);
  const done = { ...drain, ingests: 0, backups: 0, inferences: 0, drained_at: 2 };
  assert.deepEqual([stageOf(done), leftOf(done)], ['drained', 0]);
  assert.equal(stageOf({ mode: 'cordon', reason: '', since: 1 }), 'cordoned');
});

test('a session is shown the screens that it may read', () => {
  const session = (scopes: string[], may: Partial<Session['may']>): Session => ({
    user: 'api_token:t',
    may: { read: false, write: false, execute: false, admin: false, ...may },
    scopes,
    expires_at: null,
    server: { version: '0', started_at: 0 },
    features: [],
  });
  const main = ['overview', 'streamers', 'streams', 'events'];
  const of = ['whatif', 'layouter', 'agents', 'tokens', 'auth', 'balancers', 'settings'];
  const all = [...main, ...of];
  assert.deepEqual(permittedScreens(session(['*'], { admin: true })), all);
  assert.deepEqual(permittedScreens(session(['*'], { read: true })), all);
  assert.deepEqual(permittedScreens(session(['streams/a%2F*'], { read: true })), ['streams']);
  assert.deepEqual(permittedScreens(session(['layouter'], { read: true })), ['layouter']);
  assert.deepEqual(permittedScreens(session(['*'], { write: true })), []);
});

test('a question survives its address', () => {
  const questions = [
    { kind: 'lose', hosts: 'a.example.com,b.example.com' },
    { kind: 'add', count: '200', like: 'cam/ä b' },
    { kind: 'change', host: 'a.example.com', patch: '{"channel_limit": 9007199254740993}' },
    { kind: 'stream', name: 'cam/a', patch: '{"labels": {"required.site": null}}' },
  ] as const;
  for (const question of questions) {
    const { query } = readRoute(hashOf('whatif', [], question));
    assert.deepEqual(questionOf(query), question);
    assert.ok(isComplete(questionOf(query)));
    assert.deepEqual(checkedQuestion(question), question);
  }
  assert.deepEqual(questionOf({ kind: 'toString', hosts: 'a', patch: '{}' }), {
    kind: 'lose',
    hosts: 'a',
  });
  assert.ok(!isComplete(questionOf({})), 'an empty address asks nothing');
  const typed = checkedQuestion({ kind: 'lose', hosts: ' a,b\nb  c, ' });
  assert.deepEqual(typed, { kind: 'lose', hosts: 'a,b,c' });
  assert.equal(draftOf(typed).hosts, 'a\nb\nc');
  assert.equal(draftOf({ kind: 'add' }).count, '100');
});

test('a question that is wrong or has a secret is refused', () => {
  for (const count of ['0', '-1', '1.5', '1e3', '10000000', 'many']) {
    assert.throws(() => checkedQuestion({ kind: 'add', count }), /whole number/, count);
  }
  assert.throws(() => checkedQuestion({ kind: 'lose', hosts: ' , ' }), /empty/);
  assert.throws(() => checkedQuestion({ kind: 'stream', name: ' ', patch: '{}' }), /empty/);
  const change = (patch: string) => () => checkedQuestion({ kind: 'change', host: 'a', patch });
  assert.throws(change('[]'), /JSON object/);
  assert.throws(change('{'), SyntaxError);
  assert.throws(change('{"cluster_key": "secret"}'), /cluster_key/);
  const patch = '{"labels": {}, "inputs": [{"url": "rtsp://user:secret@a"}]}';
  assert.throws(() => checkedQuestion({ kind: 'stream', name: 'a', patch }), /inputs/);
});

test('the largest change of a load is first', () => {
  const load = (hostname: string, delta: number) => ({
    hostname,
    role: 'ingest',
    before: 10,
    after: 10 + delta,
    delta,
  });
  const loads = [load('b', 3), load('a', 3), load('c', -9), load('d', 1)];
  assert.deepEqual(
    largestFirst(loads).map(({ hostname }) => hostname),
    ['c', 'a', 'b', 'd'],
  );
});

test('what is requested during a run is run once more at its end', async () => {
  const ends: (() => void)[] = [];
  const run = oneAtATime(() => new Promise<void>((end) => ends.push(end)));
  const settled = () => new Promise((done) => setImmediate(done));
  void run();
  assert.equal(ends.length, 1);
  void run();
  void run();
  assert.equal(ends.length, 1, 'one at a time');
  ends[0]?.();
  await settled();
  assert.equal(ends.length, 2, 'once, however often it was requested');
  ends[1]?.();
  await settled();
  assert.equal(ends.length, 2, 'nothing was requested meanwhile');
  void run();
  assert.equal(ends.length, 3);
});

test('a failed run does not prevent the next one', async () => {
  let runs = 0;
  const run = oneAtATime(async () => {
    runs += 1;
    if (runs === 1) throw new Error('failed');
  });
  await assert.rejects(run());
  await run();
  assert.equal(runs, 2);
});

test('events are passed on once, and the position never goes back by them', () => {
  const position = new LogPosition();
  const ids = (events: EventRecord[]) => events.map((it) => it.event_id);
  const of = (...all: (number | string)[]) => all.map((event_id) => event({ event_id }));
  assert.equal(position.last, null);
  assert.deepEqual(ids(position.take(of(7, 9))), [7, 9]);
  assert.equal(position.last, 9);
  assert.deepEqual(ids(position.take(of(8, 9, 10))), [10]);
  assert.deepEqual(ids(position.take(of(3))), []);
  assert.equal(position.last, 10);
  assert.deepEqual(ids(position.take([])), []);
  const [older, newer] = ['9007199254740993', '9007199254740995'];
  assert.deepEqual(ids(position.take(of(older, newer))), [older, newer]);
  assert.deepEqual(ids(position.take(of(older))), [], 'beyond 2^53');
  position.set(4);
  assert.deepEqual(ids(position.take(of(5))), [5], 'a log that began again');
});

test('moves of the last hour are summed, most first', () => {
  const moves_1h = { by_reason: { restore: 3, node_offline: 4 } };
  const reasons = [
    ['node_offline', 4],
    ['restore', 3],
  ];
  assert.deepEqual(recentMoves({ moves_1h }), { total: 7, reasons });
  assert.deepEqual(recentMoves({ moves_1h: { by_reason: {} } }), { total: 0, reasons: [] });
});

test('settings are kept without secrets', () => {
  const of = (name: string) => ({ from: 'flag' as const, name });
  const answer = {
    api_key: 'secret-key',
    edit_auth: { login: 'op', password: 'secret-password' },
    opentelemetry_url: 'http://user:secret@traces.example.com:14268',
    cluster: { streamer_connector_retries: 5 },
    layouter_enabled: 'true',
    sources: {
      api_key: of('--api-key'),
      edit_auth: of('--edit-auth'),
      opentelemetry_url: of('--url'),
      'cluster.streamer_connector_retries': of('--retries'),
      layouter_enabled: of('--layouter-enabled'),
      api_url: { from: 'default' },
    },
    warnings: [{ code: 'overridden', title: 'It is not in force' }],
  };
  const settings = settingsOf(answer);
  assert.deepEqual(settings.values, {
    opentelemetry_url: 'http://user:***@traces.example.com:14268',
    'cluster.streamer_connector_retries': 5,
    layouter_enabled: 'true',
    api_url: null,
  });
  assert.deepEqual([settings.restart, settings.warnings], [[], ['It is not in force']]);
  assert.ok(!JSON.stringify(settings).includes('secret'));
  assert.deepEqual(changeOf('cluster.streamer_connector_retries', 7), {
    api_key: '***',
    cluster: { streamer_connector_retries: 7 },
  });
  assert.deepEqual(changeOf('loglevel', null), { api_key: '***', loglevel: null });
});

test('two versions of an entity are compared member by member', () => {
  const before = {
    name: 'cam',
    title: 'before',
    labels: { site: 'fra', customer: 'acme' },
    inputs: [{ url: 'rtsp://u:old-s3cret@a/1' }, { url: 'udp://b' }],
  };
  const stored = {
    ...before,
    title: 'theirs',
    comment: 'x',
    labels: { site: 'fra', customer: 'acme', 'required.site': 'fra' },
    inputs: [{ url: 'rtsp://u:new-s3cret@a/1' }, { url: 'udp://b' }],
  };
  const patch = { title: 'mine', labels: { customer: null, site: 'fra' }, position: 7 };
  const differences = differencesOf(before, stored, patch);
  const inputs = '[{"url":"rtsp://***@a/1"},{"url":"udp://b"}]';
  assert.deepEqual(differences, [
    { member: 'comment', theirs: '"x"', mine: null, by: 'theirs' },
    { member: 'inputs', theirs: inputs, mine: inputs, by: 'theirs' },
    { member: 'labels.customer', theirs: '"acme"', mine: null, by: 'mine' },
    { member: 'labels.required.site', theirs: '"fra"', mine: null, by: 'theirs' },
    { member: 'position', theirs: null, mine: '7', by: 'mine' },
    { member: 'title', theirs: '"theirs"', mine: '"mine"', by: 'both' },
  ]);
  assert.ok(!JSON.stringify(differences).includes('s3cret'));
  // A secret that another one changed is named, and neither value is shown.
  assert.deepEqual(differencesOf({ cluster_key: 'a' }, { cluster_key: 'b' }, {}), [
    { member: 'cluster_key', theirs: '"***"', mine: '"***"', by: 'theirs' },
  ]);
});

test('equal versions have no difference, in whatever order their members are', () => {
  const before = { labels: { a: '1' }, dvr: { root: 'x', expiration: 5 } };
  const same = { dvr: { expiration: 5, root: 'x' }, labels: { a: '2' } };
  assert.deepEqual(differencesOf(before, same, { labels: { a: '2' } }), []);
  const lists = [{ servers: [{ a: 1, b: 2 }] }, { servers: [{ b: 2, a: 1 }] }];
  assert.deepEqual(differencesOf(lists[0], lists[1], {}), []);
  const [only] = differencesOf(before, before, { labels: null });
  assert.deepEqual(only, { member: 'labels.a', theirs: '"1"', mine: null, by: 'mine' });
  const emptied = differencesOf(before, before, { labels: { a: null } });
  assert.deepEqual(
    emptied.map(({ member }) => member),
    ['labels.a'],
  );
  const long = 'x'.repeat(1000);
  const [cut] = differencesOf({}, {}, { title: long });
  assert.equal(cut?.mine?.length, 301, 'a long value is cut');
});

test('what the server adds to an entity is not compared', () => {
  const given = { title: 'a' };
  const entity = { config_on_disk: given, title: 'of a template', layout: { ingest: 'edge-1' } };
  assert.deepEqual(configOf(entity), given);
  const streamer = { hostname: 'a', stats: { cpu_usage: 1 }, state: {}, updated_at: 5 };
  assert.deepEqual(configOf(streamer), { hostname: 'a' });
  assert.deepEqual(configOf(null), {});
});

test('a merge patch replaces, adds and removes', () => {
  const value = { a: { b: 1, c: 2 }, list: [1, 2], text: 'x' };
  const patch = { a: { b: null, d: { e: null, f: 1 } }, list: [3], text: { now: 'an object' } };
  assert.deepEqual(patched(value, patch), {
    a: { c: 2, d: { f: 1 } },
    list: [3],
    text: { now: 'an object' },
  });
  assert.deepEqual(patched(undefined, { a: null }), {});
  const odd = patched({}, JSON.parse('{"__proto__":{"a":1}}')) as object;
  assert.ok(Object.hasOwn(odd, '__proto__'), 'a name as any other');
});

test('the age of a screen is that of its oldest answer', () => {
  const [clock, events] = [{}, {}];
  assert.equal(oldestAge(), null, 'nothing came yet');
  keepAge(clock, 5000, false);
  keepAge(events, 1000, true);
  assert.equal(oldestAge(), 1000);
  // What refreshes by events is current while the event log is read.
  confirmAges(9000);
  assert.equal(oldestAge(), 5000);
  forgetAge(clock);
  assert.equal(oldestAge(), 9000);
  forgetAge(events);
  assert.equal(oldestAge(), 9000, 'the last answer, where nothing ages');
});

test('a request without an answer is known until another one is answered', () => {
  const [first, second] = [{}, {}];
  const seen: boolean[] = [];
  const off = onUnanswered(() => seen.push(isUnanswered()));
  keepAnswered(first, true);
  keepAnswered(first, false);
  keepAnswered(first, false);
  keepAnswered(second, false);
  keepAnswered(first, true);
  assert.equal(isUnanswered(), true);
  keepAnswered(second, true);
  off();
  keepAnswered(first, false);
  keepAnswered(first, true);
  assert.deepEqual(seen, [true, true, true, false]);
});

test('a server that is away gets fewer and fewer requests', () => {
  const pauses = [1, 2, 3, 6, 100].map((failures) => pauseAfter(failures, 0));
  assert.deepEqual(pauses, [1000, 2000, 4000, 30_000, 30_000]);
  assert.equal(pauseAfter(1, 1), 1500);
  assert.equal(pauseAfter(100, 1), 45_000);
});

test('a drain names who takes the streams, the most first', () => {
  const load = (hostname: string, delta: number, role = 'ingest') => {
    return { hostname, role, before: 10, after: 10 + delta, delta };
  };
  const changes = [load('a', -9), load('b', 2), load('d', 4), load('c', 4), load('b', -1, 'x')];
  assert.deepEqual(
    targetsOf('a', [...changes, load('a', 3, 'dvr_backup')]).map(({ hostname, n }) => [hostname, n]),
    [
      ['c', 4],
      ['d', 4],
      ['b', 2],
    ],
  );
});

test('a secret is kept, replaced or removed', () => {
  const patch = ' {"position": 9007199254740993} ';
  assert.equal(withSecret(patch, 'key', { action: 'keep', text: 'x' }), patch);
  const replaced = withSecret(patch, 'key', { action: 'new', text: 'a"b' });
  assert.equal(replaced, '{"key":"a\\"b","position": 9007199254740993}');
  assert.equal(withSecret('{ }', 'key', { action: 'remove', text: 'x' }), '{"key":null}');
  assert.equal(secretOf({ action: 'new', text: 'x' }), 'x');
  assert.throws(() => secretOf({ action: 'new', text: '' }), /empty/);
  const twice = () => withSecret('{"key":"a"}', 'key', { action: 'new', text: 'b' });
  assert.throws(twice, /has key already/);
  assert.deepEqual(secretValue('edit_auth', ' op ', 'word'), { login: 'op', password: 'word' });
  assert.equal(secretValue('api_key', '', 'word'), 'word');
});

test('a typed setting is sent as what it holds', () => {
  assert.equal(typedValue('layouter_enabled', 'true'), 'true');
  assert.equal(typedValue('cluster.node_config_provision_enabled', 'false'), false);
  assert.equal(typedValue('streamer_dead_timeout', ' 60000 '), 60000);
  assert.equal(typedValue('loglevel', 'debug'), 'debug');
  // What is no number would be sent as null, which resets the setting.
  for (const text of ['', 'x', '1e3', '-1', '1.5', '9'.repeat(16)]) {
    assert.throws(() => typedValue('episodes_buffer_limit', text), /whole number/, text);
  }
});

test('texts have plurals, places and fallbacks', () => {
  assert.equal(t('head.placed', { n: 1 }), '1 stream is placed');
  assert.equal(t('head.placed', { n: 98514 }), '98,514 streams are placed');
  assert.equal(t('stream.returns', { host: 'edge-1' }), 'will return to edge-1');
  assert.equal(code('reason', 'not_distributed'), 'it had no place yet');
  assert.equal(code('reason', 'reason_of_later'), 'reason of later');
});

const rulesOf = (of: string) => ({
  select: new Intl.PluralRules(of),
  number: new Intl.NumberFormat(of),
});

test('plurals have as many forms as the language', () => {
  const forms: Forms = { one: '{n} файл', few: '{n} файла', many: '{n} файлов', other: '{n} файла' };
  const inRussian = (n: number) => textOf(forms, { n }, rulesOf('ru'));
  const words = (all: number[]) => all.map((n) => inRussian(n).split(' ').at(-1));
  assert.deepEqual(words([1, 21, 101]), ['файл', 'файл', 'файл']);
  assert.deepEqual(words([2, 3, 24]), ['файла', 'файла', 'файла']);
  assert.deepEqual(words([0, 5, 11, 112, 1e6]), Array(5).fill('файлов'));
  assert.equal(inRussian(1.5), '1,5 файла');
  assert.equal(inRussian(1_234_567), '1\u00a0234\u00a0567 файлов');
  const none: Forms = { ...forms, '=0': 'нет файлов' };
  assert.equal(textOf(none, { n: 0 }, rulesOf('ru')), 'нет файлов');
  assert.equal(textOf({ other: '{n} つ' }, { n: 3 }, rulesOf('ja')), '3 つ');
  const link = { to: 'a' };
  const russian = piecesOf('{why}: {name}', { name: link, why: 200 }, rulesOf('ru'));
  assert.deepEqual(russian.filter(Boolean), ['200', ': ', link], 'in the order of the language');
});

test('a browser gets the language that its user chose or prefers', () => {
  const languages = ['en', 'pt', 'pt-BR'].map((of) => ({ locale: of, name: of }));
  const all = [...languages, { locale: 'en-XA', name: 'x', isForTests: true }];
  const chosen = (preferred: string[], asked: string | null = null, kept: string | null = null) =>
    chosenLocale(all, { asked, kept, preferred });
  assert.equal(chosen([]), 'en');
  assert.equal(chosen(['xx', 'pt-BR', 'en']), 'pt-BR');
  assert.equal(chosen(['pt-PT', 'en']), 'pt');
  assert.equal(chosen(['en-XA']), 'en', 'not by preference');
  assert.equal(chosen(['pt'], null, 'en'), 'en', 'the choice is before the preference');
  assert.equal(chosen(['pt'], 'en-XA', 'pt'), 'en-XA', 'the address is before the choice');
  assert.equal(chosen(['pt'], '../x', 'constructor'), 'pt', 'no other file is loaded');
});

/** The languages beside English: a file for each row of the table, and none without one. */
const FILES: Record<string, LanguageFile> = { 'en-XA': pseudo };

test('every language has every text, with the same places and its own plurals', () => {
  const beside = LANGUAGES.map((it) => it.locale).filter((it) => it !== 'en');
  assert.deepEqual(beside, Object.keys(FILES), 'import it here');
  const files = readdirSync(join(process.env.SOURCES ?? '', 'languages'));
  assert.deepEqual(files.sort(), ['en.ts', ...beside.map((it) => `${it}.ts`)].sort());
  assert.deepEqual(faultsOf({ locale: 'en', texts: en }, en), []);
  for (const [name, file] of Object.entries(FILES)) {
    const language = file(en);
    assert.equal(language.locale, name);
    assert.deepEqual(faultsOf(language, en), [], name);
  }
});

test('faults of a language are found', () => {
  const english = {
    a: 'A',
    b: '{n} of {total}',
    c: { one: '{n} c', other: '{n} cs' },
  } as unknown as Texts;
  const faults = (texts: unknown, of = 'ru') =>
    faultsOf({ locale: of, texts: texts as Texts }, english);
  const whole = { one: '{n} 1', few: '{n} 2', many: '{n} 5', other: '{n} x' };
  const given = { a: 'А', b: '{total}: {n}', c: whole };
  assert.deepEqual(faults(given), []);
  assert.deepEqual(faults({ ...given, c: { ...whole, one: 'один', '=0': 'нет' } }), []);
  assert.deepEqual(faults({ ...given, a: '' }), ['a, other: empty']);
  assert.deepEqual(faults({ ...given, a: '{x}' }), ['a, other: {x} is not filled']);
  assert.deepEqual(faults({ ...given, b: '{n}' }), ['b, other: {total} is missing']);
  assert.deepEqual(faults({ a: 'А', b: given.b, d: 'Д', c: whole }), ['d: unknown']);
  assert.deepEqual(faults({ b: given.b, c: whole }), ['a: missing']);
  const { few: _few, ...short } = whole;
  assert.deepEqual(faults({ ...given, c: short }), ['c: no form few']);
  assert.deepEqual(faults(given, 'en'), [
    'c: the language has no form few',
    'c: the language has no form many',
  ]);
});

test('the pseudo-language is longer, in brackets, and keeps the places', () => {
  assert.equal(locale, 'en', 'Node.js has no language of its own');
  const { texts } = pseudo(en);
  for (const [key, given] of Object.entries(en) as [keyof typeof en, string | Forms][]) {
    const pairs =
      typeof given === 'string'
        ? [[given, texts[key]]]
        : Object.entries(given).map(([form, text]) => [
            text,
            (texts[key] as Record<string, string>)[form],
          ]);
    for (const [text, made] of pairs as [string, string][]) {
      assert.match(made, /^⟦.*⟧$/s, key);
      assert.ok(made.length - 2 >= text.length * 1.4, `${key}: ${made}`);
    }
  }
});

function sources(folder: string): string {
  const entries = readdirSync(folder, { withFileTypes: true });
  const texts = entries.map((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return sources(path);
    return entry.name === 'en.ts' ? '' : readFileSync(path, 'utf8');
  });
  return texts.join('\n');
}

test('every text is used', () => {
  // The compiler holds the other direction: a key that is used exists.
  const all = sources(process.env.SOURCES ?? '');
  assert.ok(all.length > 10_000, 'the sources are found');
  const built = [
    'status.',
    'state.',
    'run.',
    'live.',
    'nav.',
    'bottleneck.',
    'theme.',
    'verb.',
    'source.',
    'new.',
    'none.',
    'paused.',
    'pause_means.',
    'need.',
    'auth_test.',
    'changed_by.',
  ];
  const byCode = ['reason.', 'cause.', 'setting.', 'role.', 'budget.', 'kind.', 'mode.'];
  const unused = Object.keys(en).filter((key) => {
    const isBuilt = built.some((prefix) => key.startsWith(prefix) && all.includes(`\`${prefix}$`));
    const isCode = byCode.some((prefix) => key.startsWith(prefix));
    return !isBuilt && !isCode && !all.includes(`'${key}'`);
  });
  assert.deepEqual(unused, []);
});
