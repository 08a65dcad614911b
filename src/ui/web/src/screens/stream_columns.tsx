// Columns that all tables of streams have.
import * as f from '../format';
import type { StreamEntity } from '../model';
import { Mark, Name } from '../parts';
import type { Column } from '../table';
import { t } from '../text';
import { runMark, runWord } from './stream_status';

export const NAME: Column<StreamEntity> = {
  id: 'name',
  head: t('col.stream'),
  sort: 'name',
  cell: (stream) => (
    <>
      <Mark of={runMark(stream)} label={runWord(stream)} /> <Name name={stream.name} />
    </>
  ),
};

export const BITRATE: Column<StreamEntity> = {
  id: 'bitrate',
  head: t('col.bitrate'),
  sort: 'stats.bitrate',
  down: true,
  class: 'num',
  cell: (stream) => f.rate(stream.stats?.bitrate),
};

export const VIEWERS: Column<StreamEntity> = {
  id: 'viewers',
  head: t('col.viewers'),
  sort: 'stats.online_clients',
  down: true,
  class: 'num',
  unit: t('col.watching'),
  cell: (stream) => f.count(stream.stats?.online_clients),
};
