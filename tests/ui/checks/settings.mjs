// The settings of the server.
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  administrator,
  API,
  call,
  clickOn,
  key,
  loggedIn,
  logIn,
  open,
  WAIT,
  waitText,
  within,
} from '../pages.mjs';

/** A backup that is downloaded beside the page. */
async function backup() {
  const response = await fetch(`${API}/backup`, { headers: administrator });
  assert.equal(response.status, 200);
  return Buffer.from(await response.arrayBuffer());
}

const BUTTON = '.bar-top button ::-p-text(Download a backup)';

/** Downloads on the page while nothing changes on the server. Returns both forms of the backup. */
async function backupOf(page, read) {
  for (let attempt = 0; attempt < 10; attempt += 1) {
    const before = await backup();
    await page.click(BUTTON);
    const found = await within(read(), 'a file');
    if (before.equals(await backup())) return [found, before];
  }
  throw new Error('the server changed during each of 10 backups');
}

/** A page whose browser lets the user choose a file: here it is one that scripts can read. */
const withPicker = (page) =>
  page.evaluateOnNewDocument(() => {
    globalThis.showSaveFilePicker = async ({ suggestedName }) => {
      if (globalThis.isRefused) throw new DOMException('no', 'AbortError');
      const directory = await navigator.storage.getDirectory();
      return directory.getFileHandle(suggestedName, { create: true });
    };
  });

export const CHECKS = {
  async 'an administrator downloads a backup, whole or not at all'(browser) {
    const { page, context, reports } = await open(browser, { hash: '#/settings' });
    await withPicker(page);
    await page.reload();
    await logIn(page);
    await page.waitForSelector(BUTTON, WAIT);
    reports.length = 0;
    const kept = () =>
      page.evaluate(async () => {
        const directory = await navigator.storage.getDirectory();
        const found = [];
        for await (const [name, handle] of directory.entries()) {
          const bytes = new Uint8Array(await (await handle.getFile()).arrayBuffer());
          found.push([name, [...bytes].map((byte) => String.fromCharCode(byte)).join('')]);
        }
        return found;
      });
    const read = async () => {
      await page.waitForSelector(`${BUTTON}:not(:disabled)`, WAIT);
      await waitText(page, 'main [role=status]', 'The backup is complete');
      const [[name, text]] = await kept();
      assert.match(name, /^weir-\d{4}-\d\d-\d\d\.backup$/);
      return Buffer.from(text, 'latin1');
    };
    const [written, expected] = await backupOf(page, read);
    assert.ok(written.length > 10_000 && written.equals(expected), `${written.length} bytes`);
    // Without a file there is no request.
    let requests = 0;
    page.on('request', (request) => {
      if (request.url().endsWith('/backup')) requests += 1;
    });
    await page.evaluate(() => void (globalThis.isRefused = true));
    await page.click(BUTTON);
    await page.waitForFunction(
      () => ![...document.querySelectorAll('main [role=status]')].some((it) => it.textContent),
      WAIT,
    );
    assert.equal(requests, 0);
    await page.evaluate(() => void (globalThis.isRefused = false));
    // A connection that ends in the middle changes no file, and is shown.
    await call('PUT', '/streams/after-the-backup', { title: 'x' });
    await page.evaluate(() => {
      const whole = globalThis.fetch;
      globalThis.fetch = async (...given) => {
        const response = await whole(...given);
        if (!String(given[0]).endsWith('/backup')) return response;
        const reader = response.body.getReader();
        let pieces = 0;
        const body = new ReadableStream({
          async pull(controller) {
            const { value } = await reader.read();
            pieces += 1;
            if (pieces < 3 && value) controller.enqueue(value);
            else controller.error(new TypeError('cut off'));
          },
        });
        return new Response(body, response);
      };
    });
    await page.click(BUTTON);
    await waitText(page, '.failure', 'cut off');
    const [[, after]] = await kept();
    assert.ok(Buffer.from(after, 'latin1').equals(written), 'the file is as it was');
    assert.deepEqual(reports, []);
    await context.close();
    await call('DELETE', '/streams/after-the-backup');
  },

  async 'a browser that cannot write files downloads a backup'(browser) {
    const { page, context, reports } = await open(browser, { hash: '#/settings' });
    await page.evaluateOnNewDocument(() => delete globalThis.showSaveFilePicker);
    await page.reload();
    await logIn(page);
    await page.waitForSelector(BUTTON, WAIT);
    reports.length = 0;
    const downloadPath = mkdtempSync(join(tmpdir(), 'weir-backup-'));
    const session = await page.createCDPSession();
    await session.send('Browser.setDownloadBehavior', {
      behavior: 'allowAndName',
      browserContextId: context.id,
      downloadPath,
      eventsEnabled: true,
    });
    const ends = [];
    let wake = () => {};
    session.on('Browser.downloadProgress', ({ guid, state }) => {
      if (state === 'inProgress') return;
      ends.push([guid, state]);
      wake();
    });
    const read = async () => {
      while (ends.length === 0) await new Promise((done) => (wake = done));
      const [guid, state] = ends.shift();
      assert.equal(state, 'completed');
      return readFileSync(join(downloadPath, guid));
    };
    const [written, expected] = await backupOf(page, read);
    assert.ok(written.equals(expected), `${written.length} bytes`);
    assert.deepEqual(reports, []);
    await context.close();
    rmSync(downloadPath, { recursive: true });
  },

  async 'settings name their sources, and are changed one by one'(browser) {
    const { page, context, reports } = await loggedIn(browser, { hash: '#/settings' });
    await page.waitForSelector('.settings li', WAIT);
    const row = (name) => `xpath/.//ul[@class="settings"]/li[span/code="${name}"]`;
    const textOfRow = async (name) => (await page.$(row(name))).evaluate((it) => it.textContent);
    assert.match(await textOfRow('layouter_enabled'), /on by the flag --layouter-enabled/);
    assert.match(await textOfRow('api_key'), /not shown/);
    const html = await page.evaluate(() => document.body.outerHTML);
    assert.ok(!html.includes(key), 'the key is nowhere');
    const change = async (name, text) => {
      await (await page.$(`${row(name)}//button`)).click();
      await page.waitForSelector('dialog[open] input[name=value]', WAIT);
      await page.$eval('dialog input[name=value]', (it) => it.select());
      await page.type('dialog input[name=value]', text);
      await page.keyboard.press('Enter');
    };
    await change('episodes_buffer_limit', 'many');
    await waitText(page, 'dialog .failure', 'must be a whole number');
    await page.keyboard.press('Escape');
    await page.waitForFunction(() => !document.querySelector('dialog'), WAIT);
    await change('streamer_dead_timeout', '1');
    await waitText(page, 'dialog .failure', '/streamer_dead_timeout');
    await page.keyboard.press('Escape');
    await page.waitForFunction(() => !document.querySelector('dialog'), WAIT);
    await change('episodes_buffer_limit', '251');
    await waitText(page, '.settings li', '251 in the file');
    assert.equal((await call('GET', '/config')).episodes_buffer_limit, 251);
    await (await page.$(`${row('episodes_buffer_limit')}//button`)).click();
    await page.waitForSelector('dialog[open] footer button:nth-of-type(2)', WAIT);
    await page.click('dialog footer button:nth-of-type(2)');
    await waitText(page, '.settings li', '250 by default');
    // A secret is only written. The flag of this server is stronger, which the answer states.
    const file = async () => (await call('GET', '/config')).edit_auth;
    const before = await file();
    const changeSecret = async (action) => {
      await (await page.$(`${row('edit_auth')}//button`)).click();
      await page.waitForSelector('dialog[open] .secret', WAIT);
      await waitText(page, 'dialog .secret button', 'Unchanged');
      assert.equal(await page.$eval('dialog footer .primary', (it) => it.disabled), true);
      await clickOn(page, action, 'dialog .secret button');
    };
    await changeSecret('New value');
    await page.type('dialog input[name=login]', 'with space');
    await page.type('dialog input[name=secret]', 'new-s3cret');
    await page.keyboard.press('Enter');
    await waitText(page, 'dialog .failure', '/edit_auth');
    await page.$eval('dialog input[name=login]', (it) => it.select());
    await page.type('dialog input[name=login]', 'operator');
    await page.keyboard.press('Enter');
    await waitText(page, 'main .warning', '`edit_auth` is saved in the configuration file');
    await changeSecret('Remove');
    await page.click('dialog footer .primary');
    await page.waitForFunction(() => !document.querySelector('dialog, main .warning'), WAIT);
    assert.deepEqual(await file(), before);
    const now = await page.evaluate(() => document.body.outerHTML);
    assert.ok(!now.includes('s3cret') && !now.includes(before.password), 'no secret is shown');
    // Refused requests are reported by the browser itself.
    assert.deepEqual(
      reports.filter((report) => !report.includes('status of 400')),
      [],
    );
    await context.close();

    const permissions = [{ scopes: ['*'], list: true, read: true }];
    const { key: reader } = await call('PUT', '/api_tokens/reads-settings', { permissions });
    const other = await loggedIn(browser, { hash: '#/settings', credential: reader });
    await waitText(other.page, '.bar-top', 'Only an administrator may change this');
    const states = await other.page.$$eval('.settings button', (all) =>
      all.map((it) => it.disabled),
    );
    assert.ok(states.length > 10 && states.every(Boolean), `${states}`);
    const why = await other.page.$eval('.bar-top button', (it) => [it.disabled, it.title]);
    assert.deepEqual(why, [true, 'Only an administrator may change this']);
    assert.deepEqual(other.reports, []);
    await other.context.close();
  },
};
