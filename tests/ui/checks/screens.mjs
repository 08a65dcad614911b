// All screens in all appearances and sizes.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { barriers, call, ELEMENTS_MAX, go, loggedIn, SIZES, tooWide, WAIT } from '../pages.mjs';
import { compareStructures, structureOf } from '../structure.mjs';

/** Where pictures of the screens are kept, for people to look at. */
const { SCREENSHOTS, STRUCTURE } = process.env;

/** Their addresses, and what they show when their data is there. */
export const SCREENS = {
  overview: ['#/overview', '.tile'],
  streamers: ['#/streamers', '.tbody .name'],
  grid: ['#/streamers?view=grid&group=site', '.cell'],
  streamer: ['#/streamers/edge-1.example.com', '.json'],
  cordoned: ['#/streamers/edge-2.example.com', '.maintenance'],
  streams: ['#/streams', '.tbody .name'],
  stream: ['#/streams/cam%2Fgraz%2Fgate-1', '.json'],
  events: ['#/events', '.event'],
  whatif: ['#/whatif', '.question'],
  lost: ['#/whatif?kind=lose&hosts=edge-1.example.com', '.answer .tile'],
  moved: ['#/whatif?kind=stream&name=cam%2Fgraz%2Fgate-1&patch={"disabled":true}', '.answer .tile'],
  layouter: ['#/layouter', '.tile'],
  more: ['#/more', '.screens a'],
  agents: ['#/agents', '.tbody .name'],
  tokens: ['#/tokens', '.tbody .name'],
  token: ['#/tokens/of-screens', 'dialog textarea'],
  auth: ['#/auth', '.tbody .name'],
  auth_test: ['#/auth/of-screens', 'dialog button.test'],
  balancers: ['#/balancers', '.tbody .name'],
  settings: ['#/settings', '.settings li'],
};

/** An entity of each kind, for the screens about them. */
export async function saveEntities() {
  await call('PUT', '/agents/of-screens', {});
  await call('PUT', '/api_tokens/of-screens', {
    permissions: [{ scopes: ['streams/a%2F*'], list: true }],
  });
  await call('PUT', '/auth_backends/of-screens', { allow_ips: ['10.0.0.0/8'] });
  await call('PUT', '/load-balancers/of-screens', {});
  // Reports are in memory only: an earlier restart of the server has lost them.
  for (const host of ['edge-1', 'edge-2']) {
    const stats = { cpu_usage: 20, memory_usage: 40, uptime: 100_000, server_version: '26.9' };
    await call('PUT', `/streamers/${host}.example.com/stats`, { stats });
  }
  const cordon = { mode: 'cordon', reason: 'x'.repeat(300) };
  await call('PUT', '/streamers/edge-2.example.com/maintenance', cordon);
}

/**
 * All screens in one appearance and size: accessible, within the window, without a report. Pictures
 * are kept of the light ones; the structure of the wide ones is the stored one.
 */
async function checkScreens(browser, theme, size) {
  await saveEntities();
  const { page, context, reports } = await loggedIn(browser, { theme, size });
  const structures = {};
  for (const [name, [hash, selector]] of Object.entries(SCREENS)) {
    await go(page, hash);
    await page.waitForSelector(`main ${selector}`, WAIT);
    const found = await barriers(page);
    const wide = await tooWide(page);
    const elements = await page.$$eval('*', (all) => all.length);
    const at = `${name} ${theme} ${size}`;
    assert.deepEqual(found, [], at);
    assert.equal(wide, 0, `${at}: ${wide} pixels wider than the window`);
    assert.ok(elements <= ELEMENTS_MAX, `${at}: ${elements} elements`);
    assert.deepEqual(reports, [], at);
    if (theme !== 'light') continue;
    const path = join(SCREENSHOTS, `${name}-${SIZES[size].width}.png`);
    await page.screenshot({ path, optimizeForSpeed: true });
    if (size !== 'wide') continue;
    const { frame, screen } = await structureOf(page);
    structures.frame ??= frame;
    structures[name] = screen;
  }
  await context.close();
  if (Object.keys(structures).length > 0) compareStructures(structures, STRUCTURE);
}

export const CHECKS = {};
for (const theme of ['light', 'dark']) {
  for (const size of Object.keys(SIZES)) {
    CHECKS[`all screens, ${theme}, ${size}`] = (browser) => checkScreens(browser, theme, size);
  }
}
