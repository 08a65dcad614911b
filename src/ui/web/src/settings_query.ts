// The settings of the server: read, kept current, and changed.
import { put } from './api';
import type { Json } from './json';
import { useQuery } from './query';
import { changeOf, settingsOf, type Settings } from './settings';

/** Changes one setting. Returns all of them, and the server's warnings about the change. */
export const saveSetting = async (name: string, value: Json): Promise<Settings> =>
  settingsOf(await put<unknown>('/config', { body: changeOf(name, value) }));

export const useSettings = () =>
  useQuery<Settings>('/config', {
    every: 15_000,
    wake: (events) => events.some((event) => event.operation_id === 'config_save'),
    keep: settingsOf,
  });
